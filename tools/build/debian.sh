# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Packages of any Debian suite, unpacked into a folder. Neither the machine's apt
# configuration nor its installed packages are touched, and nobody has to be root.
# Sourced by lib.sh.

# private_apt SUITE[/source] COMMAND ARGS...: an apt command with a state of its own,
# which knows one suite of the machine's mirror, of backports also what they are added
# to, and no installed package. /source: its source packages instead.
private_apt() {
	local suite=${1%/source} kind=deb site state
	case $1 in */source) kind=deb-src ;; esac
	state=$CACHE/apt/$suite${kind#deb}
	shift
	# shellcheck disable=SC2016 # apt's own placeholder
	site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' 'Component: main' |
		grep -v security | sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
	[ -n "$site" ] || return 1
	mkdir -p "$state"/{lists/partial,cache/archives/partial}
	printf "$kind [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $site %s main\n" \
		"$suite" "${suite%-backports}" | sort -u >"$state/sources.new"
	: >"$state/status"
	local opts=(-o "Dir::State=$state" -o "Dir::State::lists=$state/lists" -o "Dir::State::status=$state/status"
		-o "Dir::Cache=$state/cache" -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null
		-o APT::Sandbox::User=root)
	# What was read once is kept; a mirror that does not have it any more says so.
	if [ ! -e "$state/updated" ] || ! cmp -s "$state/sources.new" "$state/sources.list"; then
		rm -f "$state/updated"
		cp "$state/sources.new" "$state/sources.list"
		apt-get "${opts[@]}" update -qq >&2 && touch "$state/updated" || return 1
	fi
	"$1" "${opts[@]}" "${@:2}"
}

# renew_apt SUITE[/source]: the next private_apt reads the mirror's lists anew.
renew_apt() {
	local name=${1%/source}
	[ "$name" = "$1" ] || name+=-src
	rm -f "$CACHE/apt/$name/updated"
}

# download_deb SUITE SPEC DIR: unpack one package, a name or NAME=VERSION, into DIR.
download_deb() {
	local try
	for try in 1 2; do
		unpack_debs "$3" private_apt "$1" apt-get download -qq "$2" && return 0
		# The lists may be older than the mirror's content.
		[ "$try" -eq 2 ] || renew_apt "$1"
	done
	return 1
}

# download_closure SUITE SPEC DIR: unpack a package, or several ('A B'), and all that they
# depend on, the C library included: they then run on any machine. See run_from.
download_closure() {
	local try
	for try in 1 2; do
		# shellcheck disable=SC2086 # one word a package
		unpack_debs "$3" fetch_closure "$1" $2 && return 0
		[ "$try" -eq 2 ] || renew_apt "$1"
	done
	return 1
}

# fetch_closure SUITE SPEC...: the packages' files go to the folder it is called in.
fetch_closure() {
	private_apt "$1" apt-get install -qq -y --no-install-recommends --download-only \
		-o "Dir::Cache::archives=$PWD" -t "$1" "${@:2}"
}

# What a shell script may use without a word, as far as building a kernel asks for it.
DEBIAN_BASE='base-files bash dash coreutils diffutils findutils grep gzip hostname mawk perl python3 sed tar xz-utils'

# debian_root SUITE DIR PACKAGE...: DIR will be a Debian with these packages, unpacked and
# not configured, for in-root.sh.
debian_root() {
	local suite=$1 dir=$2
	shift 2
	[ ! -e "$dir/complete" ] || return 0
	rm -rf "$dir"
	download_closure "$suite" "$DEBIAN_BASE $*" "$dir" || return 1
	# Links that the packages' own scripts would have made.
	ln -sf mawk "$dir/usr/bin/awk"
	touch "$dir/complete"
}

# unpack_debs DIR COMMAND...: unpack the packages that a command leaves where it runs.
unpack_debs() {
	local target=$1 dir file status=0
	shift
	mkdir -p "$CACHE" "$target"
	dir=$(mktemp -d "$CACHE/deb.XXXXXX")
	mkdir "$dir/partial"
	(cd "$dir" && "$@" >&2) || status=1
	for file in "$dir"/*.deb; do
		[ "$status" -ne 0 ] || dpkg-deb -x "$file" "$target" || status=1
	done
	rm -rf "$dir"
	return "$status"
}

# run_from DIR PROGRAM [ARGS...]: print the command with which a shell script becomes a
# program of what download_closure has left in DIR, with that C library and without
# any library of the machine's; ARGS come before the script's.
run_from() {
	local dir=$1 program=$2 loader lib=x86_64-linux-gnu
	shift 2
	loader=$(find "$dir" -path "*/lib/$lib/ld-linux-x86-64.so.2" -print -quit)
	if [ ! -x "$dir/$program" ] || [ -z "$loader" ]; then
		return 1
	fi
	printf 'exec '
	printf '%q ' "$loader" --library-path "$dir/lib/$lib:$dir/usr/lib/$lib" "$dir/$program" "$@"
	# shellcheck disable=SC2016 # the script's own arguments
	echo '"$@"'
}

# debian_bindgen SUITE DIR: DIR/bin/bindgen will be that of a suite, with its libclang: the
# machine's would need the machine's C library.
debian_bindgen() {
	local suite=$1 dir=$2 root=$2/root
	rm -rf "$dir"
	mkdir -p "$dir/bin"
	download_closure "$suite" bindgen "$root" || return 1
	{
		echo '#!/bin/sh'
		printf 'export LIBCLANG_PATH=%q\n' "$root"/usr/lib/llvm-*/lib
		run_from "$root" usr/bin/bindgen
	} >"$dir/bin/bindgen.part" || return 1
	chmod +x "$dir/bin/bindgen.part"
	mv "$dir/bin/bindgen.part" "$dir/bin/bindgen"
}

# install_qemu SUITE DIR: DIR/qemu-system-x86_64 will be that of a suite.
install_qemu() {
	local suite=$1 dir=$2 root=$2/root
	rm -rf "$dir"
	mkdir -p "$dir"
	download_closure "$suite" qemu-system-x86 "$root" || return 1
	{
		echo '#!/bin/sh'
		printf 'export QEMU_MODULE_DIR=%q\n' "$root/usr/lib/x86_64-linux-gnu/qemu"
		run_from "$root" usr/bin/qemu-system-x86_64 -L "$root/usr/share/seabios" -L "$root/usr/share/qemu"
	} >"$dir/qemu-system-x86_64.part" || return 1
	chmod +x "$dir/qemu-system-x86_64.part"
	mv "$dir/qemu-system-x86_64.part" "$dir/qemu-system-x86_64"
}
