//! What Linux says of this process.
//!
//! A figure that it does not say is left out rather than invented.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Ticks of a second in `/proc/self/stat`: 100 in every Linux' interface to programs, whatever the kernel's own.
const TICKS: f64 = 100.0;

/// Files of `/proc` kept open, so that they can be read where no descriptor is left.
pub(super) struct Process {
    stat: Option<File>,
    status: Option<File>,
    limits: Option<File>,
}

/// What is known at one moment.
pub(super) struct ProcessFigures {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_descriptors: Option<u64>,
    pub(super) most_descriptors: Option<u64>,
    pub(super) threads: Option<u64>,
}

impl Process {
    pub(super) fn open() -> Process {
        #[expect(clippy::disallowed_methods, reason = "the thread of the metrics has no Io")]
        let open = |name: &str| File::open(format!("/proc/self/{name}")).ok();
        Process { stat: open("stat"), status: open("status"), limits: open("limits") }
    }

    pub(super) fn figures(&self) -> ProcessFigures {
        let (stat, status) = (read(self.stat.as_ref()), read(self.status.as_ref()));
        let number = |name: &str| field(&status, name).and_then(|text| text.parse::<u64>().ok());
        ProcessFigures {
            cpu_seconds: cpu_seconds(&stat),
            resident_bytes: number("VmRSS:").map(|kib| kib << 10),
            threads: number("Threads:"),
            open_descriptors: open_descriptors(),
            most_descriptors: most_descriptors(&read(self.limits.as_ref())),
        }
    }
}

fn read(file: Option<&File>) -> String {
    let mut bytes = vec![0; 8 << 10];
    let len = file.and_then(|file| file.read_at(&mut bytes, 0).ok()).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

/// The first word behind `name` at the start of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

/// The command's name, in parentheses, may hold anything; what follows are numbers.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some((user + system) as f64 / TICKS)
}

/// Since Linux 6.2 the directory's size is their number; before that they are counted.
fn open_descriptors() -> Option<u64> {
    let told = std::fs::metadata("/proc/self/fd").ok().map(|directory| directory.len()).filter(|count| *count > 0);
    told.or_else(|| Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64))
}

fn most_descriptors(limits: &str) -> Option<u64> {
    field(limits, "Max open files")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_known() {
        let figures = Process::open().figures();
        assert!(figures.cpu_seconds.is_some());
        assert!(figures.resident_bytes.is_some_and(|bytes| bytes > 1 << 20));
        assert!(figures.threads.is_some_and(|threads| threads > 0));
        let most = figures.most_descriptors.unwrap_or(u64::MAX);
        assert!(figures.open_descriptors.is_some_and(|open| open >= 3 && open <= most));
    }

    #[test]
    fn a_name_with_parentheses_is_no_obstacle() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 5 0 0 0 250 50 0 0 20 0 4 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
    }
}
