"""The operations of SQS by their names."""

from melange.server.calls import Operation
from melange.server.sqs import managing_queues, moving, permissions, received_messages, receiving, sending

OPERATIONS: dict[str, Operation] = {
    "AddPermission": permissions.add_permission,
    "CancelMessageMoveTask": moving.cancel_message_move_task,
    "ChangeMessageVisibility": received_messages.change_message_visibility,
    "ChangeMessageVisibilityBatch": received_messages.change_message_visibility_batch,
    "CreateQueue": managing_queues.create_queue,
    "DeleteMessage": received_messages.delete_message,
    "DeleteMessageBatch": received_messages.delete_message_batch,
    "DeleteQueue": managing_queues.delete_queue,
    "GetQueueAttributes": managing_queues.get_queue_attributes,
    "GetQueueUrl": managing_queues.get_queue_url,
    "ListDeadLetterSourceQueues": managing_queues.list_dead_letter_source_queues,
    "ListMessageMoveTasks": moving.list_message_move_tasks,
    "ListQueueTags": managing_queues.list_queue_tags,
    "ListQueues": managing_queues.list_queues,
    "PurgeQueue": managing_queues.purge_queue,
    "ReceiveMessage": receiving.receive_message,
    "RemovePermission": permissions.remove_permission,
    "SendMessage": sending.send_message,
    "SendMessageBatch": sending.send_message_batch,
    "SetQueueAttributes": managing_queues.set_queue_attributes,
    "StartMessageMoveTask": moving.start_message_move_task,
    "TagQueue": managing_queues.tag_queue,
    "UntagQueue": managing_queues.untag_queue,
}
