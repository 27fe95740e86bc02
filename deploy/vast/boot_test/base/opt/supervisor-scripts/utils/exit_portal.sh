# shellcheck shell=bash
# Stand-in: exit unless the portal's file has the program's name.
until [[ -f /etc/portal.yaml ]]; do
    sleep 1
done
if ! grep -q "^[^#]*$1" /etc/portal.yaml; then
    echo "$PROC_NAME is not in /etc/portal.yaml"
    sleep 6
    exit 0
fi
