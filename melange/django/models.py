"""The tables of the outbox, as ``melange.outbox`` describes them, for Django's migrations and ORM."""

from __future__ import annotations

from django.db import models
from django.db.models import Q


class _Message(models.Model):
    """What both tables hold of a message."""

    topic = models.CharField(max_length=512)
    key = models.CharField(max_length=256, null=True)
    lock_key = models.IntegerField()
    message_id = models.CharField(max_length=128)
    event_type_name = models.CharField(max_length=256)
    body = models.TextField()
    headers = models.JSONField(null=True)
    message_group_id = models.CharField(max_length=128, null=True)
    message_deduplication_id = models.CharField(max_length=128, null=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return f"{self.event_type_name} {self.message_id} for {self.topic}"


class OutboxMessage(_Message):
    """A message that was written in a transaction, and is published after the commit: see ``melange.outbox``."""

    published_at = models.DateTimeField()
    state = models.CharField(max_length=8, default="pending", db_default="pending")
    attempts = models.IntegerField(default=0, db_default=0)
    error = models.TextField(null=True)
    done_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "melange_outbox"
        indexes = (
            models.Index(fields=["id"], name="melange_outbox_pending", condition=Q(state="pending")),
            models.Index(
                fields=["lock_key"], name="melange_outbox_stopped", condition=Q(state__in=["failed", "held"])
            ),
            models.Index(fields=["done_at"], name="melange_outbox_done", condition=Q(done_at__isnull=False)),
        )


class OutboxScheduledMessage(_Message):
    """A message that is due later: see ``melange.outbox``."""

    due_at = models.DateTimeField()

    class Meta:
        db_table = "melange_outbox_scheduled"
        indexes = (
            models.Index(fields=["due_at", "id"], name="melange_outbox_scheduled_due"),
            models.Index(fields=["message_id"], name="melange_outbox_scheduled_id"),
        )

    def __str__(self) -> str:
        return f"{super().__str__()} at {self.due_at}"
