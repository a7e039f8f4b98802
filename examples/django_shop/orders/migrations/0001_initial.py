"""The table of the orders."""

from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("order_id", models.CharField(max_length=64, primary_key=True, serialize=False)),
                ("is_packed", models.BooleanField(default=False)),
            ],
            options={
                "db_table": "orders",
            },
        ),
    ]
