"""The table of the outbox."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies: list[tuple[str, str]] = []

    operations = [
        migrations.CreateModel(
            name="OutboxMessage",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("topic", models.CharField(max_length=512)),
                ("key", models.CharField(max_length=256, null=True)),
                ("lock_key", models.IntegerField()),
                ("message_id", models.CharField(max_length=128)),
                ("event_type_name", models.CharField(max_length=256)),
                ("body", models.TextField()),
                ("headers", models.JSONField(null=True)),
                ("published_at", models.DateTimeField()),
                ("message_group_id", models.CharField(max_length=128, null=True)),
                ("message_deduplication_id", models.CharField(max_length=128, null=True)),
                ("state", models.CharField(db_default="pending", default="pending", max_length=8)),
                ("attempts", models.IntegerField(db_default=0, default=0)),
                ("error", models.TextField(null=True)),
                ("done_at", models.DateTimeField(null=True)),
            ],
            options={
                "db_table": "melange_outbox",
                "indexes": [
                    models.Index(
                        condition=models.Q(("state", "pending")), fields=["id"], name="melange_outbox_pending"
                    ),
                    models.Index(
                        condition=models.Q(("state__in", ["failed", "held"])),
                        fields=["lock_key"],
                        name="melange_outbox_stopped",
                    ),
                    models.Index(
                        condition=models.Q(("done_at__isnull", False)),
                        fields=["done_at"],
                        name="melange_outbox_done",
                    ),
                ],
            },
        ),
    ]
