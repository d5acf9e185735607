"""Durable tasks: records, their execution, and what happens when an executing runner dies."""
