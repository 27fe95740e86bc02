# shellcheck shell=bash
# Stand-in: end the program's child processes with it.
cleanup() {
    local status=$?
    trap - EXIT INT TERM
    pkill -TERM -P $$
    exit "$status"
}
trap cleanup EXIT INT TERM
