// The AWS SDK for JavaScript, and sqs-consumer. Argument: the server's URL.
import assert from "node:assert";
import { CreateTopicCommand, PublishCommand, SNSClient, SubscribeCommand } from "@aws-sdk/client-sns";
import {
  CreateQueueCommand,
  GetQueueAttributesCommand,
  GetQueueUrlCommand,
  QueueDoesNotExist,
  SendMessageBatchCommand,
  SetQueueAttributesCommand,
  SQSClient,
} from "@aws-sdk/client-sqs";
import { Consumer } from "sqs-consumer";

const options = {
  endpoint: process.argv[2],
  region: "us-east-1",
  credentials: { accessKeyId: "test", secretAccessKey: "test" },
};
const sqs = new SQSClient(options);
const sns = new SNSClient(options);
const { QueueUrl } = await sqs.send(new CreateQueueCommand({ QueueName: "node" }));
// The SDK compares the checksums of what it sends and receives.
await sqs.send(
  new SendMessageBatchCommand({
    QueueUrl,
    Entries: [...Array(10).keys()].map((number) => ({
      Id: `${number}`,
      MessageBody: `sent ${number}`,
      MessageAttributes: { binary: { DataType: "Binary", BinaryValue: new Uint8Array([0, number]) } },
    })),
  }),
);
const { Attributes } = await sqs.send(
  new GetQueueAttributesCommand({ QueueUrl, AttributeNames: ["QueueArn"] }),
);
const { TopicArn } = await sns.send(new CreateTopicCommand({ Name: "node" }));
const statement = {
  Effect: "Allow",
  Principal: { Service: "sns.amazonaws.com" },
  Action: "sqs:SendMessage",
  Resource: Attributes.QueueArn,
  Condition: { ArnEquals: { "aws:SourceArn": TopicArn } },
};
await sqs.send(
  new SetQueueAttributesCommand({ QueueUrl, Attributes: { Policy: JSON.stringify({ Statement: [statement] }) } }),
);
await sns.send(
  new SubscribeCommand({
    TopicArn,
    Protocol: "sqs",
    Endpoint: Attributes.QueueArn,
    Attributes: { RawMessageDelivery: "true" },
  }),
);
await sns.send(new PublishCommand({ TopicArn, Message: "published" }));
await assert.rejects(sqs.send(new GetQueueUrlCommand({ QueueName: "none" })), QueueDoesNotExist);

const received = new Set();
await new Promise((resolve, reject) => {
  const consumer = Consumer.create({
    queueUrl: QueueUrl,
    sqs,
    batchSize: 10,
    messageAttributeNames: ["All"],
    handleMessage: async (message) => {
      received.add(message.Body);
      if (received.size === 11) {
        consumer.stop();
        resolve();
      }
      return message;
    },
  });
  consumer.on("error", reject);
  consumer.on("processing_error", reject);
  consumer.start();
});
assert(received.has("published") && received.has("sent 9"));
process.exit(0);
