//! What the allocator keeps of memory that is no longer used: glibc's arenas, for small boards.
//!
//! By default each thread may have an arena of its own, and what was freed in one serves no other and does not go back to the
//! kernel: an agent that has read 10,000 Services once keeps as much again as it needs.

/// How many arenas all threads share. One makes them wait for each other where each allocates much.
#[cfg(target_env = "gnu")]
const ARENAS: nix::libc::c_int = 2;

/// Bounds the arenas. To be called before threads begin: those that there are stay.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's allocator has no other door")]
pub fn bound_arenas() {
    // SAFETY: mallopt takes two integers and is safe at any time (mallopt(3): MT-Safe init); a value that it does not take
    // changes nothing, which is why the answer does not matter.
    let _ = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS) };
}

/// Gives free pages of every arena back to the kernel. Takes milliseconds where there is much: not for a runtime's worker.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's allocator has no other door")]
pub fn give_back() {
    // SAFETY: malloc_trim takes the locks that it needs (malloc_trim(3): MT-Safe) and touches free memory alone.
    let _ = unsafe { nix::libc::malloc_trim(0) };
}

/// Other allocators have no such habit, or no such door.
#[cfg(not(target_env = "gnu"))]
pub fn bound_arenas() {}

/// See [`bound_arenas`].
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

#[cfg(test)]
#[cfg(target_env = "gnu")]
mod tests {
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[test]
    fn freed_memory_goes_back_to_the_kernel() {
        // Pieces too small to be mapped on their own, with one that lives after all the others: the heap's end cannot shrink.
        let mut pieces: Vec<Vec<u8>> =
            (0..4096).map(|n| vec![u8::try_from(n % 251).unwrap(); 16 << 10]).collect();
        let last = pieces.pop();
        drop(pieces);
        let before = resident();
        super::give_back();
        let after = resident();
        assert!(after + (32 << 20) < before, "{before} bytes were resident, and {after} are");
        assert!(last.is_some());
    }
}
