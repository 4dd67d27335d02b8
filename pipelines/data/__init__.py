"""Parquet shards, the plan of an epoch and the stream of decoded batches."""
