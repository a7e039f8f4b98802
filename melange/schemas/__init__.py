"""Schemas derived from dataclasses: strict marshmallow fields, chosen by annotation."""
