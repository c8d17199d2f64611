#!/usr/bin/env bash
# Install the Debian packages that tests use: only as root and when apt answers. Never fails; says what is left out.
set -euo pipefail
list="$(dirname "${BASH_SOURCE[0]}")/debian-packages.txt"
mapfile -t wanted < <(sed 's/#.*//; s/[[:space:]]//g; /^$/d' "$list")
missing=()
for package in "${wanted[@]}"; do
    state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null || true)
    [[ $state == installed ]] || missing+=("$package")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

leave_out() {
    echo "make: left out the Debian packages ${missing[*]}: $1; tests that need them are skipped" >&2
    exit 0
}
[[ $(id -u) -eq 0 ]] || leave_out "not root"
command -v apt-get >/dev/null || leave_out "no apt here"
echo "make: installing the Debian packages ${missing[*]}" >&2
options=(-qq -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60)
export DEBIAN_FRONTEND=noninteractive
timeout 120 apt-get "${options[@]}" update >&2 || leave_out "apt does not answer"
timeout 400 apt-get "${options[@]}" install -y --no-install-recommends "${missing[@]}" >&2 ||
    leave_out "apt could not install them"
