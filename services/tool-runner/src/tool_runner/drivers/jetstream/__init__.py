"""The storage of the tools on JetStream: nothing to install, one bucket or stream per tenant."""
