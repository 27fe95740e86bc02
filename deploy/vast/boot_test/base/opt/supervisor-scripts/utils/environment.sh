# shellcheck shell=bash
# Stand-in: load the instance's variables, then the user's.
set -a
for _file in /etc/environment "$WORKSPACE/.env"; do
    # shellcheck source=/dev/null
    [[ -f $_file ]] && . "$_file"
done
set +a
