//go:build mutants

package mutant

// Planted is the fault that is in this program.
var Planted Mutant

// Is says whether a fault is planted.
func Is(m Mutant) bool { return m == Planted }
