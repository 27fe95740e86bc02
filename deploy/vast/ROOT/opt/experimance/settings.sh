# shellcheck shell=bash
# Default settings of both programs, for variables missing in the instance's environment.

# The image's defaults of CATALOG and FETCH_MISSING.
# shellcheck source=/dev/null
. /opt/experimance/image.env

: "${CATALOG:=$IMAGE_CATALOG}" "${FETCH_MISSING:=$IMAGE_FETCH_MISSING}"
# The instance's disk survives a stop of the container; changes to the image's layers do not.
: "${WORKSPACE:=/workspace}"
: "${BENTOML_HOME:=$WORKSPACE/bentoml}" "${MODELS_DIR:=$WORKSPACE/models}"
: "${MODEL_SERVER_PORT:=5001}" "${BENTOML_DO_NOT_TRACK:=True}"
# Not configurable: outside requests must come through the portal's proxy or the serverless worker.
MODEL_SERVER_HOST=127.0.0.1
# The host names of the proxy and its tunnels are unpredictable, and both require a token.
: "${ALLOWED_HOSTS:=*}"
: "${MODEL_SERVER_URL:=http://$MODEL_SERVER_HOST:$MODEL_SERVER_PORT}"
: "${MODEL_LOG:=/var/log/portal/experimance.log}"
export CATALOG FETCH_MISSING WORKSPACE BENTOML_HOME MODELS_DIR BENTOML_DO_NOT_TRACK
export MODEL_SERVER_HOST MODEL_SERVER_PORT MODEL_SERVER_URL MODEL_LOG ALLOWED_HOSTS

wait_for_provisioning() {
    while [[ -e /.provisioning ]]; do
        echo "$PROC_NAME waits for the end of provisioning (/.provisioning is there)"
        sleep 2
    done
}

# as USER [SETPRIV_OPTION…] COMMAND…: exec a command as a user that cannot regain root. It replaces
# the shell, so that signals reach the command: call it in the background or in parentheses.
as() {
    local user=$1 home
    shift
    home=$(getent passwd "$user" | cut -d: -f6)
    HOME=$home USER=$user LOGNAME=$user exec setpriv --reuid "$user" --regid "$user" --init-groups \
        --inh-caps=-all --bounding-set=-all --no-new-privs "$@"
}

# own FOLDER…: create folders and give them to the service, with root's files of earlier images.
own() {
    local folder
    for folder; do
        mkdir -p "$folder"
        [[ $(stat -c %U "$folder") == experimance ]] || chown -R experimance: "$folder"
    done
}
