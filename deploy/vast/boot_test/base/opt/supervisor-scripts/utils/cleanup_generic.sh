# shellcheck shell=bash
# Stand-in: what the program has started ends with it.
cleanup() {
    local status=$?
    trap - EXIT INT TERM
    pkill -TERM -P $$
    exit "$status"
}
trap cleanup EXIT INT TERM
