//! What computing on a device needs, and what of it is there.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::fact::memory;
use crate::{DeviceKind, Fact, ModelError};

/// What there is of all that the device needs. On CUDA this compiles our kernels and loads them.
pub fn device_facts(device: DeviceKind) -> Vec<Fact> {
    match device {
        DeviceKind::Cpu => of_cpu(),
        DeviceKind::Cuda => of_cuda(),
    }
}

fn of_cpu() -> Vec<Fact> {
    let set = kif_kernels::instruction_set();
    let cores = std::thread::available_parallelism().map_err(|error| error.to_string());
    // Systems without this file have memory all the same.
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = of_meminfo(&memory).unwrap_or_else(|| "not known".to_owned());
    vec![
        Fact::new("instructions", Ok(format!("{set:?}"))),
        Fact::new("cores", cores.map(|n| n.to_string())),
        Fact::new("memory", Ok(memory)),
    ]
}

/// Total and available memory, from the text of `/proc/meminfo`.
fn of_meminfo(text: &str) -> Option<String> {
    let bytes = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some(memory(bytes("MemTotal:")?, bytes("MemAvailable:")?))
}

/// What CUDA needs at run time, by the names that the loader asks for, and where each comes from.
const LIBRARIES: [(&str, &str); 3] = [
    ("libcuda.so.1", "it comes with the NVIDIA driver"),
    ("libnvrtc.so.13", "it comes with the CUDA toolkit 13"),
    ("libcublas.so.13", "it comes with the CUDA toolkit 13"),
];

fn of_cuda() -> Vec<Fact> {
    let build = if cfg!(feature = "cuda") {
        Ok("yes".to_owned())
    } else {
        Err(format!("{}; see docs/cuda.md", ModelError::NoCuda))
    };
    let mut facts = vec![Fact::new("CUDA in this build", build)];
    let libraries = LIBRARIES.map(|(name, origin)| {
        let found = find_library(name).map(|path| path.display().to_string());
        Fact::new(name, found.ok_or_else(|| not_found(name, origin)))
    });
    facts.extend(libraries);
    facts.push(Fact::new("kernel module", Ok(kernel_module())));
    facts.extend(of_gpu());
    facts
}

#[cfg(feature = "cuda")]
fn of_gpu() -> Vec<Fact> {
    crate::engine::cuda::CudaEngine::facts()
}

/// Only a program that is linked with the driver can ask it.
#[cfg(not(feature = "cuda"))]
fn of_gpu() -> Vec<Fact> {
    Vec::new()
}

/// Version of the driver's part in the kernel. Virtual machines may have a GPU without it.
fn kernel_module() -> String {
    let text = std::fs::read_to_string("/proc/driver/nvidia/version").unwrap_or_default();
    let line = text.lines().next().and_then(|line| line.split_once(':'));
    line.map_or("not known here".to_owned(), |(_, version)| {
        version.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

/// Folders in which installers put libraries, and which no loader searches by itself.
const UNSEARCHED: [&str; 3] = [
    "/usr/local/cuda/lib64",
    "/usr/local/cuda/compat",
    "/usr/lib/wsl/lib",
];

fn not_found(name: &str, origin: &str) -> String {
    match find_in(UNSEARCHED.map(PathBuf::from), name) {
        Some(path) => format!(
            "{} is where the loader does not look: add its folder to LD_LIBRARY_PATH",
            path.display()
        ),
        None => format!(
            "not found; {origin}; name a folder that is not the system's in LD_LIBRARY_PATH"
        ),
    }
}

/// A shared library where this process has it, or where the loader would look: the folders of
/// `LD_LIBRARY_PATH`, its cache, the usual folders.
fn find_library(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    if let Some(path) = mapped(&maps, name) {
        return Some(path);
    }
    let chosen = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let chosen: Vec<PathBuf> = std::env::split_paths(&chosen)
        .filter(|folder| !folder.as_os_str().is_empty())
        .collect();
    let usual = ["/lib", "/usr/lib"].into_iter().flat_map(|folder| {
        let of_machine = format!("{folder}/{}-linux-gnu", std::env::consts::ARCH);
        [of_machine, format!("{folder}64"), folder.to_owned()]
    });
    find_in(chosen, name)
        .or_else(|| in_cache(&loader_cache(), name))
        .or_else(|| find_in(usual.map(PathBuf::from), name))
}

/// The library that a process has mapped, from the text of `/proc/self/maps`; another major version
/// of it, too, for that is the one that the program was linked with.
fn mapped(maps: &str, name: &str) -> Option<PathBuf> {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let paths = maps
        .lines()
        .filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
    let named = |path: &Path| path.file_name()?.to_str()?.starts_with(stem).then_some(());
    let mut found = paths.filter(|path| named(path).is_some());
    found.next().map(Path::to_owned)
}

fn find_in(folders: impl IntoIterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    let mut paths = folders.into_iter().map(|folder| folder.join(name));
    paths.find(|path| path.exists())
}

/// What `ldconfig -p` prints, or nothing.
fn loader_cache() -> String {
    // It is not on everyone's search path.
    let outputs = ["ldconfig", "/sbin/ldconfig"]
        .into_iter()
        .filter_map(|program| Command::new(program).arg("-p").output().ok());
    let mut printed = outputs.filter(|output| output.status.success());
    printed.next().map_or(String::new(), |output| {
        String::from_utf8_lossy(&output.stdout).into_owned()
    })
}

/// The library of this machine's width in what `ldconfig -p` prints: `name (kind,machine) => path`.
fn in_cache(listing: &str, name: &str) -> Option<PathBuf> {
    let mut paths = listing.lines().filter_map(|line| {
        let (entry, path) = line.trim().split_once(" => ")?;
        let (listed, kind) = entry.split_once(' ')?;
        // Libraries of 32 bits have no machine in their kind.
        let fits = listed == name && (kind.contains(',') || cfg!(target_pointer_width = "32"));
        fits.then(|| PathBuf::from(path))
    });
    paths.find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_lacks_nothing() {
        let facts = device_facts(DeviceKind::Cpu);
        assert_eq!(facts.len(), 3);
        assert!(facts.iter().all(|fact| fact.found.is_ok()), "{facts:?}");
    }

    #[test]
    fn memory_is_read_from_the_kernels_text() {
        let text = "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   1572864 kB\n";
        assert_eq!(of_meminfo(text).unwrap(), "8.0 GiB, 1.5 GiB free");
        assert_eq!(of_meminfo("MemTotal: 5 kB"), None);
    }

    #[test]
    fn a_library_of_the_other_width_or_version_is_not_taken_from_the_cache() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libnvrtc.so.13");
        std::fs::write(&path, "").unwrap();
        let path = path.display();
        let entry = |name: &str, kind: &str| format!("\t{name} ({kind}) => {path}\n");
        let listing = entry("libnvrtc.so.13", "libc6") + &entry("libnvrtc.so.12", "libc6,x86-64");
        assert_eq!(in_cache(&listing, "libnvrtc.so.13"), None);
        let listing = listing + &entry("libnvrtc.so.13", "libc6,x86-64");
        let found = in_cache(&listing, "libnvrtc.so.13").unwrap();
        assert_eq!(found.display().to_string(), path.to_string());
        assert_eq!(
            find_in([folder.path().into()], "libnvrtc.so.13"),
            Some(found)
        );
        assert_eq!(find_in([folder.path().into()], "libcuda.so.1"), None);
    }

    #[test]
    fn a_mapped_library_is_found_whatever_its_version() {
        let maps = "7f00-7f01 r--p 00000000 08:01 1   /usr/lib/libc.so.6\n\
                    7f02-7f03 r-xp 00000000 08:01 2   /opt/my cuda/libnvrtc.so.12.8\n\
                    7f04-7f05 rw-p 00000000 00:00 0 \n";
        let found = mapped(maps, "libnvrtc.so.13").unwrap();
        assert_eq!(found, Path::new("/opt/my cuda/libnvrtc.so.12.8"));
        assert_eq!(mapped(maps, "libcuda.so.1"), None);
    }
}
