# The AWS CLI. Argument: the server's URL.
set -eu
export AWS_DEFAULT_OUTPUT=text AWS_PAGER=""
url="$1"
aws() { command aws --endpoint-url "$url" "$@"; }
queue=$(aws sqs create-queue --queue-name cli --query QueueUrl)
aws sqs send-message --queue-url "$queue" --message-body '{"hello": "world"}' --query MessageId >/dev/null
body=$(aws sqs receive-message --queue-url "$queue" --query 'Messages[0].Body')
[ "$body" = '{"hello": "world"}' ] || { echo "received $body"; exit 1; }
topic=$(aws sns create-topic --name cli --query TopicArn)
aws sns publish --topic-arn "$topic" --message hello --query MessageId >/dev/null
account=$(aws sts get-caller-identity --query Account)
[ "$topic" = "arn:aws:sns:us-east-1:$account:cli" ] || { echo "the topic is $topic"; exit 1; }
if aws sqs get-queue-url --queue-name none 2>error; then exit 1; fi
grep -q NonExistentQueue error
aws sqs purge-queue --queue-url "$queue"
aws sqs delete-queue --queue-url "$queue"
