#!/bin/bash
# The image service, from supervisor's start to its stop.

utils=/opt/supervisor-scripts/utils
# shellcheck source=/dev/null
. "$utils/logging.sh"
# shellcheck source=/dev/null
. "$utils/cleanup_generic.sh"
# shellcheck source=/dev/null
. "$utils/environment.sh"
# exit_serverless.sh is left out: the serverless worker needs this very service. It has no portal.
if [[ ${SERVERLESS,,} != true ]]; then
    # shellcheck source=/dev/null
    . "$utils/exit_portal.sh" "Image service"
fi
# shellcheck source-path=SCRIPTDIR source=../experimance/settings.sh
. /opt/experimance/settings.sh

readonly configuration_error=78
# Longer than supervisor's startsecs: what ends sooner counts as a start to be tried again.
readonly past_startsecs=6
# A service that lived for so many seconds starts anew without a delay.
readonly sound_life=600
readonly longest_delay=60
# Shorter than supervisor's stopwaitsecs, after which nobody would be left to end the workers.
readonly grace=75
readonly crashes=/run/experimance-crashes

# BentoML's workers are sessions of their own and outlive a killed server, with the port and the
# GPU's memory; nothing else is this user's.
end_leftovers() {
    pkill -KILL --uid experimance
}

wait_for_provisioning
end_leftovers
SECONDS=0
own "$BENTOML_HOME" "$MODELS_DIR"
cd "$WORKSPACE" || exit "$configuration_error"

# Should this script be killed, the kernel tells the server to stop. In a process group of its own,
# so that supervisor's SIGKILL to this one's leaves it the time to stop its workers.
set -m
as experimance --pdeathsig TERM \
    /venv/main/bin/python -m bentoml serve /opt/experimance/bento \
    --host "$MODEL_SERVER_HOST" --port "$MODEL_SERVER_PORT" &
server=$!
set +m

stopping=
trap 'stopping=1; kill -TERM "$server" 2>/dev/null
    { sleep "$grace"; kill -KILL "$server"; } &' TERM INT

while :; do
    wait "$server"
    status=$?
    kill -0 "$server" 2>/dev/null || break
done
end_leftovers

if [[ $stopping ]]; then
    echo "stopped"
    exit 0
fi
if ((status == configuration_error)); then
    echo "not started again until its settings change: supervisorctl start $PROC_NAME"
    rm -f "$crashes"
    ((SECONDS < past_startsecs)) && sleep $((past_startsecs - SECONDS))
    exit "$configuration_error"
fi

count=$(cat "$crashes" 2>/dev/null)
((SECONDS >= sound_life)) && count=0
count=$((${count:-0} + 1))
echo "$count" >"$crashes"
delay=$((count < 7 ? 1 << (count - 1) : longest_delay))
((delay > longest_delay)) && delay=$longest_delay
echo "ended with status $status; starts again in $delay s"
sleep "$delay" &
wait $!
# 0 would be taken for a wanted end.
exit "$((status == 0 ? 1 : status))"
