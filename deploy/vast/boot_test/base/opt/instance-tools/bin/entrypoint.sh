#!/bin/bash
# Stand-in for the base image's boot: environment, portal file, provisioning, supervisor.

set -euo pipefail
mkdir -p /var/log/portal /var/log/supervisor "$WORKSPACE"
touch /.provisioning
{
    echo "applications:"
    tr '|' '\n' <<<"$PORTAL_CONFIG" | while IFS=: read -r host external internal path name; do
        echo "  $name:"
        echo "    hostname: $host"
        echo "    external_port: $external"
        echo "    internal_port: $internal"
        echo "    open_path: $path"
        echo "    name: $name"
    done
} >/etc/portal.yaml
(
    sleep 8
    rm /.provisioning
) &
exec supervisord --configuration /etc/supervisor/supervisord.conf
