// The AWS SDK for Go v2. Argument: the server's URL.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	snstypes "github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

var ctx = context.Background()

func main() {
	url := os.Args[1]
	settings := must(config.LoadDefaultConfig(ctx))
	queues := sqs.NewFromConfig(settings, func(options *sqs.Options) {
		options.EndpointResolver = sqs.EndpointResolverFromURL(url)
	})
	topics := sns.NewFromConfig(settings, func(options *sns.Options) {
		options.EndpointResolver = sns.EndpointResolverFromURL(url)
	})
	queue := must(queues.CreateQueue(ctx, &sqs.CreateQueueInput{
		QueueName:  aws.String("go"),
		Attributes: map[string]string{"VisibilityTimeout": "120"},
	})).QueueUrl
	attributes := must(queues.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl: queue, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameQueueArn},
	})).Attributes
	topic := must(topics.CreateTopic(ctx, &sns.CreateTopicInput{Name: aws.String("go")})).TopicArn
	allow(queues, queue, attributes["QueueArn"], *topic)
	must(topics.Subscribe(ctx, &sns.SubscribeInput{
		TopicArn: topic,
		Protocol: aws.String("sqs"),
		Endpoint: aws.String(attributes["QueueArn"]),
		Attributes: map[string]string{
			"RawMessageDelivery": "true",
			"FilterPolicy":       `{"kind": ["order"], "amount": [{"numeric": [">", 10]}]}`,
		},
	}))

	publish(topics, topic, "an invoice", "invoice", "20")
	publish(topics, topic, "a small order", "order", "5")
	publish(topics, topic, "an order with <&> and \"", "order", "20")

	// The SDK compares the checksum of the body.
	message := receive(queues, queue)
	check(*message.Body == "an order with <&> and \"", "the filter lets one message pass, not "+*message.Body)
	check(*message.MessageAttributes["kind"].StringValue == "order", "raw delivery keeps attributes")
	must(queues.ChangeMessageVisibility(ctx, &sqs.ChangeMessageVisibilityInput{
		QueueUrl: queue, ReceiptHandle: message.ReceiptHandle, VisibilityTimeout: 0,
	}))
	again := receive(queues, queue)
	check(*again.MessageId == *message.MessageId, "a released message is received again")
	check(again.Attributes["ApproximateReceiveCount"] == "2", "its receives are counted")
	must(queues.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: queue, ReceiptHandle: again.ReceiptHandle}))

	batch := must(queues.SendMessageBatch(ctx, &sqs.SendMessageBatchInput{
		QueueUrl: queue,
		Entries: []types.SendMessageBatchRequestEntry{
			{Id: aws.String("good"), MessageBody: aws.String("sent")},
			{Id: aws.String("bad"), MessageBody: aws.String("sent"), DelaySeconds: 901},
		},
	}))
	check(len(batch.Successful) == 1 && len(batch.Failed) == 1, "an entry of a batch fails alone")
	check(*batch.Failed[0].Code == "InvalidParameterValue", "with SQS's code, not "+*batch.Failed[0].Code)

	_, err := queues.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: aws.String("none")})
	var missing *types.QueueDoesNotExist
	check(errors.As(err, &missing), "a missing queue has an error of its own type")
	_, err = topics.Publish(ctx, &sns.PublishInput{TopicArn: aws.String(*topic + "-none"), Message: aws.String("x")})
	var unknown *snstypes.NotFoundException
	check(errors.As(err, &unknown), "and so has a missing topic")
}

func allow(queues *sqs.Client, queue *string, queueArn string, topicArn string) {
	policy := must(json.Marshal(map[string]any{"Statement": []any{map[string]any{
		"Effect":    "Allow",
		"Principal": map[string]string{"Service": "sns.amazonaws.com"},
		"Action":    "sqs:SendMessage",
		"Resource":  queueArn,
		"Condition": map[string]any{"ArnEquals": map[string]string{"aws:SourceArn": topicArn}},
	}}}))
	must(queues.SetQueueAttributes(ctx, &sqs.SetQueueAttributesInput{
		QueueUrl: queue, Attributes: map[string]string{"Policy": string(policy)},
	}))
}

func publish(topics *sns.Client, topic *string, text string, kind string, amount string) {
	must(topics.Publish(ctx, &sns.PublishInput{
		TopicArn: topic,
		Message:  aws.String(text),
		MessageAttributes: map[string]snstypes.MessageAttributeValue{
			"kind":   {DataType: aws.String("String"), StringValue: aws.String(kind)},
			"amount": {DataType: aws.String("Number"), StringValue: aws.String(amount)},
		},
	}))
}

func receive(queues *sqs.Client, queue *string) types.Message {
	deadline, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	found := must(queues.ReceiveMessage(deadline, &sqs.ReceiveMessageInput{
		QueueUrl:              queue,
		MaxNumberOfMessages:   10,
		WaitTimeSeconds:       10,
		AttributeNames:        []types.QueueAttributeName{types.QueueAttributeNameAll},
		MessageAttributeNames: []string{"All"},
	}))
	check(len(found.Messages) == 1, "one message is received")
	return found.Messages[0]
}

func must[T any](value T, err error) T {
	check(err == nil, err)
	return value
}

func check(isRight bool, claim any) {
	if !isRight {
		log.Fatal("not so: ", claim)
	}
}
