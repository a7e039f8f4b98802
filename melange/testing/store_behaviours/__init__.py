"""The contract of deduplication stores, part by part."""
