//! Why an image file was refused.

use std::io;

use gantry_types::ImageFormat;

#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("it is a {format} image that needs another file ({what}): flatten it into one standalone file first")]
    ExternalReference { format: ImageFormat, what: String },
    #[error("it is an encrypted {format} image: decrypt it first")]
    Encrypted { format: ImageFormat },
    #[error("its {format} header gives it {size_bytes} bytes, at most {limit_bytes} are allowed")]
    TooLarge { format: ImageFormat, size_bytes: u64, limit_bytes: u64 },
    #[error("it is a damaged {format} image ({detail}): export it again from where it came from")]
    Corrupt { format: ImageFormat, detail: String },
    #[error(
        "it is a truncated {format} image: {what} needs the file to have {needed_bytes} bytes, it has {found_bytes}; fetch it again"
    )]
    Truncated { format: ImageFormat, what: &'static str, needed_bytes: u64, found_bytes: u64 },
    #[error("it is a {format} image of a kind that is not supported ({detail}): convert it to qcow2 first")]
    Unsupported { format: ImageFormat, detail: String },
    #[error("it was declared to be {declared}, but its content is {found}: declare it as that, or nothing")]
    DeclaredOtherwise { declared: ImageFormat, found: ImageFormat },
    #[error("it was declared to be {declared}, but has no {declared} header")]
    NotTheDeclared { declared: ImageFormat },
    #[error(
        "it is no known disk image ({looks_like}): give a disk image, or declare the format raw if it is a bare file system"
    )]
    NotADisk { looks_like: &'static str },
    #[error("it is empty")]
    Empty,
    #[error("its compression is damaged or cut off ({detail}): fetch it again")]
    BadCompression { detail: String },
    #[error("it expands beyond {limit_bytes} bytes: raise the limit if that is intended")]
    ExpandsTooFar { limit_bytes: u64 },
    #[error("its data expand more than {limit_ratio} times, as only a decompression bomb's do")]
    Bomb { limit_ratio: u64 },
    #[error("qemu-img finds it damaged ({detail}): repair it or export it again")]
    CheckFailed { detail: String },
    #[error("it can't be read")]
    Read(#[source] io::Error),
}
