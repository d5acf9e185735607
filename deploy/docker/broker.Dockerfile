# The broker: nats-server is one static binary, so nothing else is in the image.
FROM scratch
COPY build/nats-server /nats-server
EXPOSE 4222 8222
ENTRYPOINT ["/nats-server", "--config", "/etc/nats/nats.conf"]
