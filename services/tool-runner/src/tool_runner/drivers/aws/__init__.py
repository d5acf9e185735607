"""The storage of the tools on AWS: DynamoDB, S3, EventBridge, Secrets Manager.

Only ``tool_runner.drivers.aws.opening`` is imported from outside, and only where AWS is
configured: whoever does without does not pay for loading the client library.
"""
