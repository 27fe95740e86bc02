#!/bin/bash
# Start, supervise and stop the image service.

utils=/opt/supervisor-scripts/utils
# shellcheck source=/dev/null
. "$utils/logging.sh"
# shellcheck source=/dev/null
. "$utils/cleanup_generic.sh"
# shellcheck source=/dev/null
. "$utils/environment.sh"
# No exit_serverless.sh, because the serverless worker needs this service. It has no portal.
if [[ ${SERVERLESS,,} != true ]]; then
    # shellcheck source=/dev/null
    . "$utils/exit_portal.sh" "Image service"
fi
# shellcheck source-path=SCRIPTDIR source=../experimance/settings.sh
. /opt/experimance/settings.sh

readonly configuration_error=78
# Seconds, longer than supervisor's startsecs: supervisor retries a program that exits sooner.
readonly past_startsecs=6
# Seconds of uptime after which an exit resets the crash count, and with it the delay.
readonly sound_life=600
readonly longest_delay=60
# Seconds, shorter than supervisor's stopwaitsecs, after which supervisor kills this script.
readonly grace=75
readonly crashes=/run/experimance-crashes

# BentoML's workers run in their own sessions. They survive a killed server, and keep the port and
# the GPU memory. This user has no other processes.
end_leftovers() {
    pkill -KILL --uid experimance
}

wait_for_provisioning
end_leftovers
SECONDS=0
own "$BENTOML_HOME" "$MODELS_DIR"
cd "$WORKSPACE" || exit "$configuration_error"

# If this script is killed, the kernel sends SIGTERM to the server. The server has its own process
# group, so that supervisor's SIGKILL does not hit it before it has stopped its workers.
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
# supervisor would treat 0 as an expected exit.
exit "$((status == 0 ? 1 : status))"
