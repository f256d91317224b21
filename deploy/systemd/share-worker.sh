#!/bin/sh
# Runs a share-worker command as the units do: with their settings, key, user and state directory. For root.
# Installed as /usr/local/sbin/share-worker, so that `share-worker check` asks what the service would ask.
unit=share-worker-command-$$
exec systemd-run --quiet --collect --wait --pty --pipe --unit="$unit" \
  --property=EnvironmentFile=-/etc/share-worker/env \
  --property=LoadCredential=linq-api-key:/etc/share-worker/linq-api-key \
  --setenv=LINQ_API_KEY_FILE="/run/credentials/$unit.service/linq-api-key" \
  --property=User=share-worker \
  --property=DynamicUser=yes \
  --property=StateDirectory=share-worker \
  --property=StateDirectoryMode=0700 \
  --property=WorkingDirectory=/var/lib/share-worker \
  /opt/share-worker/bin/share-worker "$@"
