#!/bin/bash
# Run the serverless worker, on serverless instances only.

utils=/opt/supervisor-scripts/utils
# shellcheck source=/dev/null
. "$utils/logging.sh"
# shellcheck source=/dev/null
. "$utils/cleanup_generic.sh"
# shellcheck source=/dev/null
. "$utils/environment.sh"
# shellcheck source-path=SCRIPTDIR source=../experimance/settings.sh
. /opt/experimance/settings.sh

if [[ ${SERVERLESS,,} != true ]]; then
    echo "$PROC_NAME is for serverless instances (SERVERLESS=true)"
    # The base's portal hides programs named here. An exit before startsecs counts as a failure.
    mkdir -p /tmp/supervisor-skip && touch "/tmp/supervisor-skip/$PROC_NAME"
    sleep 6
    exit 0
fi

wait_for_provisioning
# The worker also caches its benchmark of this machine in this folder.
cd /opt/experimance/worker || exit 78
SECONDS=0
# The worker needs the instance's TLS key, which only root can read.
if [[ -e /etc/instance.key ]]; then
    chgrp experimance-worker /etc/instance.key && chmod g+r /etc/instance.key
fi
(as experimance-worker /opt/experimance/worker-venv/bin/python -m deploy.vast.worker)
status=$?
# A configuration error. supervisor would retry an exit before startsecs as a failed start.
((status == 78 && SECONDS < 6)) && sleep 6
exit "$status"
