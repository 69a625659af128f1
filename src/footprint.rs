//! Gives memory back that only the start of the program needed.
//!
//! The system maps code in blocks of 64 KB, and the start meets most of it once: command line, settings, servers. All of that would
//! count as the memory of a gateway that does nothing, and be the last to be taken when something else needs it.

use std::{fs, io};

use rustix::mm::{Advice, madvise};

/// Has the system take the program's code and constants out of this process's memory, whence they come back as they are needed: from the
/// file, which is in the system's cache, or from the disk if that had to make room.
///
/// Breakpoints that a debugger has set are lost: they are changes of such pages. Fails when `/proc` is not there, or the system
/// refuses; nothing is lost then.
pub fn give_back_code() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        // 55d0c8a00000-55d0c8f00000 r-xp 00340000 08:01 1234  /usr/bin/mcpgate
        let mut words = line.split_ascii_whitespace();
        let (range, access, offset) = (words.next(), words.next(), words.next());
        // Other pages that are only read have had addresses put into them at start. Those at the beginning of the file, with its head and the
        // constants, never have.
        let is_as_in_file = access == Some("r-xp") || (access == Some("r--p") && offset == Some("00000000"));
        let is_ours = line.ends_with(&*program.to_string_lossy());
        let range = range.filter(|_| is_as_in_file && is_ours).and_then(|range| range.split_once('-'));
        let Some((start, end)) = range else { continue };
        let [Ok(start), Ok(end)] = [start, end].map(|it| usize::from_str_radix(it, 16)) else { continue };
        forget(start, end - start)?;
    }
    Ok(())
}

#[allow(unsafe_code, reason = "what is said of an address could be wrong of another")]
fn forget(start: usize, length: usize) -> io::Result<()> {
    // SAFETY: these are pages of the program's own file that nobody can write to, so that what the system brings back when one of
    // them is touched is what was there.
    unsafe { madvise(std::ptr::with_exposed_provenance_mut(start), length, Advice::LinuxDontNeed)? };
    Ok(())
}
