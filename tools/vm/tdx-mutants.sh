# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
#
# Ways to break the TDX backend of the module, one by one.

# tdx_mutants COMMAND: calls COMMAND NAME FILE PERL_EXPRESSION for each; the
# expression sees the whole file.
tdx_mutants() {
	local protocol=src/backend/tdx/protocol.rs
	"$1" "no TRACK" $protocol 's/self\.settle\(\|\| self\.td\.track\(\)\)\.0/Verdict::Done/'
	"$1" "no kick" $protocol 's/self\.td\.kick\(\);//'
	"$1" "no WBINVD" $protocol 's/session\.settle\(\|\| td\.wbinvd\(nr\)\)\.0 != Verdict::Done/false/'
	"$1" "RELOCATE before BLOCK" $protocol \
		's/match self\.block\(nr\) \{\n                Ok\(page\) => \{/match Ok::<Blocked, Outcome>(Blocked(nr)) {\n                Ok(page) => {/'
	"$1" "copy instead of RELOCATE" src/backend/tdx.rs \
		's/answer\(\s*Leaf::MemPageRelocate,\s*tdx::mem_page_relocate\(self\.td, &self\.moves\[nr\]\),\s*\)/{ let mv = &self.moves[nr]; let _ = mv.dst().copy_from(mv.src()); Answer { status: 0, rcx: tdx::old_page(mv), rdx: 0 } }/'
	"$1" "the host writes to the old page too early" src/backend/tdx.rs \
		's/let result = protocol::relocate/for mv in moves.iter() { mv.src().clear(); }\n    let result = protocol::relocate/'
}
