"""The operations by name."""

from melange.server.calls import Operation
from melange.server.sqs import managing, moving, permissions, receiving, sending, settling

OPERATIONS: dict[str, Operation] = {
    "AddPermission": permissions.add_permission,
    "CancelMessageMoveTask": moving.cancel_message_move_task,
    "ChangeMessageVisibility": settling.change_message_visibility,
    "ChangeMessageVisibilityBatch": settling.change_message_visibility_batch,
    "CreateQueue": managing.create_queue,
    "DeleteMessage": settling.delete_message,
    "DeleteMessageBatch": settling.delete_message_batch,
    "DeleteQueue": managing.delete_queue,
    "GetQueueAttributes": managing.get_queue_attributes,
    "GetQueueUrl": managing.get_queue_url,
    "ListDeadLetterSourceQueues": managing.list_dead_letter_source_queues,
    "ListMessageMoveTasks": moving.list_message_move_tasks,
    "ListQueueTags": managing.list_queue_tags,
    "ListQueues": managing.list_queues,
    "PurgeQueue": managing.purge_queue,
    "ReceiveMessage": receiving.receive_message,
    "RemovePermission": permissions.remove_permission,
    "SendMessage": sending.send_message,
    "SendMessageBatch": sending.send_message_batch,
    "SetQueueAttributes": managing.set_queue_attributes,
    "StartMessageMoveTask": moving.start_message_move_task,
    "TagQueue": managing.tag_queue,
    "UntagQueue": managing.untag_queue,
}
