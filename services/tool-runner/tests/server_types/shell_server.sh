#!/bin/sh
# An MCP server of 2025-11-25 for a container that holds nothing but busybox.
answer() { printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$1"; }
text() { answer "{\"content\":[{\"type\":\"text\",\"text\":\"$1\"}]}"; }
tool() { printf '{"name":"%s","inputSchema":{"type":"object"}}' "$1"; }
echo "mode ${1:-none}" >&2
while IFS= read -r line; do
  id=$(echo "$line" | sed -n 's/.*"id": *\([0-9]*\).*/\1/p')
  case "$line" in
    *'"initialize"'*)
      answer '{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"shell","version":"1"}}' ;;
    *'"tools/list"'*)
      answer "{\"tools\":[$(tool about),$(tool links),$(tool big),$(tool eat),$(tool exit),$(tool write)]}" ;;
    *'"ping"'*) answer '{}' ;;
    *'"tools/call"'*'"about"'*) text "$(pwd) $(id -u) $GREETING $*" ;;
    *'"tools/call"'*'"links"'*) text "$(ls /sys/class/net | tr '\n' ' ')" ;;
    *'"tools/call"'*'"big"'*) text "$(head -c 300000 /dev/zero | tr '\0' x)" ;;
    *'"tools/call"'*'"write"'*) text "$( ( (echo x >/file) 2>&1; (echo x >/tmp/file) 2>&1; echo done) | tr '\n' ' ')" ;;
    *'"tools/call"'*'"eat"'*) tail /dev/zero; text survived ;;
    *'"tools/call"'*'"exit"'*) exit 3 ;;
    *'"notifications/'*) ;;
    *) printf '{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}\n' "$id" ;;
  esac
done
if [ "$1" = stubborn ]; then
  trap '' TERM
  while :; do sleep 1; done
fi
