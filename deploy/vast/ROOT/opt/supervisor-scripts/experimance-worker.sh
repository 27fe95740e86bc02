#!/bin/bash
# The serverless worker, where the instance is one.

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
    # The base's portal hides what is named here; supervisor takes a sooner end for a failure.
    mkdir -p /tmp/supervisor-skip && touch "/tmp/supervisor-skip/$PROC_NAME"
    sleep 6
    exit 0
fi

wait_for_provisioning
# The folder also keeps what the worker measured of this machine, for its next start.
cd /opt/experimance/worker || exit 78
SECONDS=0
# The instance's key is root's alone; the worker speaks TLS with it.
if [[ -e /etc/instance.key ]]; then
    chgrp experimance-worker /etc/instance.key && chmod g+r /etc/instance.key
fi
(as experimance-worker /opt/experimance/worker-venv/bin/python -m deploy.vast.worker)
status=$?
# A wrong setting; supervisor would take a sooner end for a failed start, and try again.
((status == 78 && SECONDS < 6)) && sleep 6
exit "$status"
