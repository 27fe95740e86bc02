#!/bin/bash
# Rotate the logs of both programs; the base image does not guarantee a running cron.

state=/var/lib/logrotate/experimance.status
mkdir -p "${state%/*}"
while :; do
    logrotate --state "$state" /etc/logrotate.d/experimance
    # Often, because a fast-growing log reaches its size limit within minutes.
    sleep 15
done
