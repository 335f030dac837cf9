# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Ways to break the TDX backend of the module, one by one.
# shellcheck disable=SC2016 # Perl expands it

# tdx_mutants COMMAND: calls COMMAND NAME FILE PERL_EXPRESSION for each; the
# expression sees the whole file.
tdx_mutants() {
	local protocol=src/backend/tdx/protocol.rs
	"$1" "no TRACK" $protocol 's/self\.settle\(\|\| self\.td\.track\(\)\)\.0/Verdict::Done/'
	"$1" "no kick" $protocol 's/self\.td\.kick\(\);//'
	"$1" "no WBINVD" $protocol 's/session\.settle\(\|\| td\.wbinvd\(nr\)\)\.0 != Verdict::Done/false/'
	"$1" "RELOCATE before BLOCK" $protocol \
		's/match self\.block\(nr\) \{\n                Ok\(page\) => \{/match Ok::<Blocked, Outcome>(Blocked(nr)) {\n                Ok(page) => {/'
	# No function of rust/ lets src/ do these.
	"$1" "copy instead of RELOCATE" rust/tdx.rs \
		's/seamcall\((Leaf::MemPageRelocate), page\.gpa\(\), td\.tdr\(\), hpa\(page\.dst\(\)\)\)/{ let _ = ($1, td, page.dst().copy_from(page.src())); Output { status: 0, rcx: old_page(page), rdx: 0 } }/'
	"$1" "the host writes to the old page too early" rust/tdx.rs \
		's/(\n    seamcall\(Leaf::MemRangeBlock)/\n    page.src().clear();$1/'
}
