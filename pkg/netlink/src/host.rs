//! Facts of the running kernel: which boot this is, the time since, and whether anybody sets its clock.

use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::io;
use std::time::Duration;

/// The kernel's boot id: a new random UUID (lower case, with dashes) each boot.
///
/// # Errors
/// When `/proc/sys/kernel/random/boot_id` cannot be read.
pub fn boot_id() -> io::Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    std::fs::read_to_string(PATH)
        .map(|text| text.trim().to_owned())
        .map_err(|e| io::Error::new(e.kind(), format!("cannot read {PATH}: {e}")))
}

/// Time since boot, sleep included (`CLOCK_BOOTTIME`); it never jumps.
///
/// # Errors
/// When the kernel has no such clock, which no supported kernel says.
pub fn boottime() -> io::Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(Duration::from(time))
}

/// Whether a program keeps the wall clock right (NTP, chrony), as it has told the kernel: `adjtimex(2)`.
///
/// # Errors
/// When the kernel does not say.
#[expect(unsafe_code, reason = "the state of the clock is told by adjtimex only")]
pub fn clock_is_synchronised() -> io::Result<bool> {
    // SAFETY: `struct timex` is of integers alone, for which zero is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the argument is a `struct timex` of our own, alive for the call; its `modes` are zero, so nothing is set.
    match unsafe { libc::adjtimex(&raw mut timex) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(timex.status & libc::STA_UNSYNC == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_id_is_a_uuid_and_stays() {
        let id = boot_id().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(id, boot_id().unwrap());
    }

    #[test]
    fn boottime_moves_forward() {
        let first = boottime().unwrap();
        assert!(first > Duration::ZERO && boottime().unwrap() >= first);
    }
}
