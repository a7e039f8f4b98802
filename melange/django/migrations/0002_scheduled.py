"""The table of the scheduled messages of the outbox."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("melange", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="OutboxScheduledMessage",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("due_at", models.DateTimeField()),
                ("topic", models.CharField(max_length=512)),
                ("key", models.CharField(max_length=256, null=True)),
                ("lock_key", models.IntegerField()),
                ("message_id", models.CharField(max_length=128)),
                ("event_type_name", models.CharField(max_length=256)),
                ("body", models.TextField()),
                ("headers", models.JSONField(null=True)),
                ("message_group_id", models.CharField(max_length=128, null=True)),
                ("message_deduplication_id", models.CharField(max_length=128, null=True)),
            ],
            options={
                "db_table": "melange_outbox_scheduled",
                "indexes": [
                    models.Index(fields=["due_at", "id"], name="melange_outbox_scheduled_due"),
                    models.Index(fields=["message_id"], name="melange_outbox_scheduled_id"),
                ],
            },
        ),
    ]
