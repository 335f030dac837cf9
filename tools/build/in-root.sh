#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# in-root.sh ROOT COMMAND [ARGS...]: run a command with the programs of an unpacked
# Debian: /usr, /etc and /var are ROOT's, all else is the machine's, so is the folder it
# runs in. Only this process sees it. Nobody has to be root where user
# namespaces are allowed.
# in-root.sh --possible: end with 0 where that can be done.
set -eu

# --inside: in the new mount namespace.
if [ "$1" = --inside ]; then
	root=$2
	shift 2
	for dir in /*; do
		name=${dir#/}
		# usr-merged: /bin and the like are links into /usr.
		if [ -L "$dir" ] || [ ! -d "$dir" ] || [ "$name" = usr ] || [ "$name" = etc ] || [ "$name" = var ]; then
			continue
		fi
		mkdir -p "$root$dir"
		mount --rbind "$dir" "$root$dir"
	done
	case $PWD in
	/usr/* | /etc/* | /var/*)
		mkdir -p "$root$PWD"
		mount --rbind "$PWD" "$root$PWD"
		;;
	esac
	# shellcheck disable=SC2016 # for the shell inside
	exec chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin HOME=/tmp LC_ALL=C "TERM=${TERM:-dumb}" \
		sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
fi

user=
[ "$(id -u)" -eq 0 ] || user=--map-root-user
# shellcheck disable=SC2086 # one word or none
unshare $user --mount true 2>/dev/null || {
	echo "error: no mount namespace for the programs of an unpacked Debian" >&2
	echo "       be root, allow user namespaces, or install that Debian's compilers on this machine" >&2
	exit 1
}
[ "$1" != --possible ] || exit 0
root=$(cd "$1" && pwd)
shift
# shellcheck disable=SC2086
exec unshare $user --mount --propagation private "$0" --inside "$root" "$@"
