//! What a process keeps of memory that is no longer used, for small boards: glibc's arenas, and code that only its start
//! needed.
//!
//! By default each thread may have an arena of its own, and what was freed in one serves no other and does not go back to the
//! kernel: an agent that has read 10,000 Services once keeps as much again as it needs.

/// How many arenas all threads share. One makes them wait for each other where each allocates much.
#[cfg(target_env = "gnu")]
const ARENAS: nix::libc::c_int = 2;

/// Pieces of this many bytes are mapped on their own, and go back to the kernel when they are freed. By default that bound
/// grows up to 32 MiB with what is freed, and a list that was large once leaves a hole in the heap.
#[cfg(target_env = "gnu")]
const MAPPED: nix::libc::c_int = 512 << 10;

/// Bounds the arenas. To be called before threads begin: those that there are stay.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's allocator has no other door")]
pub fn bound_arenas() {
    // SAFETY: mallopt takes two integers and is safe at any time (mallopt(3): MT-Safe init); a value that it does not take
    // changes nothing, which is why the answer does not matter.
    let _ = unsafe { nix::libc::mallopt(nix::libc::M_ARENA_MAX, ARENAS) };
    // SAFETY: as above.
    let _ = unsafe { nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MAPPED) };
    // SAFETY: as above.
    let _ = unsafe { nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, 2 * MAPPED) };
}

/// Gives free pages of every arena back to the kernel. Takes milliseconds where there is much: not for a runtime's worker.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "glibc's allocator has no other door")]
pub fn give_back() {
    // SAFETY: malloc_trim takes the locks that it needs (malloc_trim(3): MT-Safe) and touches free memory alone.
    let _ = unsafe { nix::libc::malloc_trim(0) };
}

/// Lets go of the pages of the program's own code. What still runs comes back from the kernel's page cache, 16 pages at a
/// time and in microseconds; what only the start needed does not. Which pages these are is read from `/proc/self/maps`
/// (proc_pid_maps(5)); where that cannot be read, nothing happens.
pub fn let_code_go() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let Ok(program) = std::fs::read_link("/proc/self/exe") else { return };
    for (from, to) in code_of(&program.to_string_lossy(), &maps) {
        drop_pages(from, to);
    }
}

/// The ranges of addresses that hold code of `program`: readable, executable, private, and not writable.
fn code_of(program: &str, maps: &str) -> Vec<(usize, usize)> {
    let range = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let file = rest.find('/').map(|at| &rest[at..])?;
        let (from, to) = range.split_once('-')?;
        let ours = rest.starts_with("r-xp ") && file == program;
        ours.then_some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
    };
    maps.lines().filter_map(range).collect()
}

#[expect(unsafe_code, reason = "the kernel has no other door")]
fn drop_pages(from: usize, to: usize) {
    // SAFETY: the range was just read from the kernel's own list, and nothing unmaps a program's code while it runs. It is a
    // private mapping of a file that is never written: a page that is dropped is read again from that file, with the same
    // content (madvise(2), MADV_DONTNEED); threads that run in it wait for that. Relocations are not in it: the linker
    // refuses those in code.
    let _ = unsafe {
        nix::libc::madvise(from as *mut nix::libc::c_void, to.saturating_sub(from), nix::libc::MADV_DONTNEED)
    };
}

/// Other allocators have no such habit, or no such door.
#[cfg(not(target_env = "gnu"))]
pub fn bound_arenas() {}

/// See [`bound_arenas`].
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}

#[cfg(test)]
mod tests {
    #[test]
    fn code_is_let_go_and_runs_on() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::fs::read_link("/proc/self/exe").unwrap();
        let code = super::code_of(program.to_str().unwrap(), &maps);
        let here = code_is_let_go_and_runs_on as fn() as usize;
        assert!(code.iter().any(|(from, to)| (*from..*to).contains(&here)), "{code:x?} without {here:x}");
        super::let_code_go();
        assert_eq!(super::code_of(program.to_str().unwrap(), &maps), code);
    }

    #[test]
    fn only_code_of_the_program_counts() {
        let maps = "1000-2000 r--p 00000000 08:01 7      /bin/w\n\
                    2000-5000 r-xp 00001000 08:01 7      /bin/w\n\
                    5000-6000 rw-p 00004000 08:01 7      /bin/w\n\
                    6000-7000 r-xp 00000000 08:01 8      /lib/w\n\
                    7000-8000 r-xp 00000000 00:00 0      [vdso]\n\
                    8000-9000 rwxp 00000000 08:01 7      /bin/w\n\
                    broken\n";
        assert_eq!(super::code_of("/bin/w", maps), [(0x2000, 0x5000)]);
    }

    #[cfg(target_env = "gnu")]
    fn resident() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[cfg(target_env = "gnu")]
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
