#!/usr/bin/env bash
# Build the image where no container engine runs, with Debian's buildah, and try what it says of itself.
#
#   apt-get install buildah debootstrap     # Debian or Ubuntu, as root
#   docker/try_build.sh [DIRECTORY]         # needs about 15 GB there; default: a new one under $TMPDIR
#
# The base image is a Debian root made by debootstrap (from $MIRROR), under the name that the Dockerfile's FROM uses, so
# nothing is pulled from a registry. pip installs as it does for whoever runs this: its configuration (`pip config
# list`), and what that names on this machine's disk, are mounted into the build and are not part of the image. torch
# comes from $TORCH_CPU_INDEX, by default the index that pip is configured with.
set -euo pipefail
cd "$(dirname "$0")/.."

mirror=${MIRROR:-http://deb.debian.org/debian}
base=$(sed -n 's/^ARG PYTHON_IMAGE=//p' docker/Dockerfile)
release=${base##*-}
work=$(realpath "${1:-$(mktemp --directory)}")
mkdir -p "$work/run"
export TMPDIR=$work/run BUILDAH_ISOLATION=chroot STORAGE_DRIVER=vfs

buildah() { command buildah --root "$work/storage" --runroot "$work/run" "$@"; }

configured() { # the value of an option of pip, from its files or the environment
    python3 -m pip config list | sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" | tail -n 1
}

# A pip.conf of what matters here, and a mount for every file or directory that it names.
mounts=()
{
    echo "[global]"
    for option in index-url extra-index-url find-links cert trusted-host; do
        value=$(configured "$option")
        if [ -n "$value" ]; then echo "$option = $value"; fi
    done
} >"$work/pip.conf"
mounts+=(--volume "$work/pip.conf:/etc/pip.conf:ro")
for word in $(configured find-links) $(configured cert); do
    if [ -e "$word" ]; then mounts+=(--volume "$word:$word:ro"); fi
done
for word in $(configured index-url) $(configured extra-index-url); do
    # The pages of an index on disk link to files beside them.
    path=$(dirname "${word#file://}")
    if [ "$path" != "$(dirname "$word")" ] && [ -d "$path" ]; then mounts+=(--volume "$path:$path:ro"); fi
done
torch_index=${TORCH_CPU_INDEX:-$(configured index-url)}

if ! buildah inspect --type image "docker.io/library/$base" >/dev/null 2>&1; then
    if [ ! -d "$work/root/usr" ]; then
        debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates \
            "$release" "$work/root" "$mirror"
        rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    fi
    container=$(buildah from scratch)
    buildah copy --quiet "$container" "$work/root" / >/dev/null
    buildah config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
    buildah commit --quiet --rm "$container" "docker.io/library/$base" >/dev/null
fi

echo "== build"
buildah bud --pull-never --format docker "${mounts[@]}" \
    --build-arg "TORCH_CPU_INDEX=${torch_index:-https://pypi.org/simple}" \
    --file docker/Dockerfile --tag saeflow:trial .
echo "== size"
buildah images

echo "== what it says of itself"
container=$(buildah from --pull-never saeflow:trial)
trap 'buildah rm "$container" >/dev/null' EXIT
buildah run "$container" -- id
buildah run "$container" -- saeflow --help
buildah run "$container" -- saeflow presets
buildah run "$container" -- python -c 'import torch; print("torch", torch.__version__)'
