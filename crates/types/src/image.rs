//! `image`: a disk that VMs start from.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ByteSize, resource::resource};

resource!(
    /// A read-only disk image, kept by the controller as a standalone qcow2 named by its SHA-256 and cached by each
    /// host's pool that needs it. VM disks are thin overlays of it.
    Image, "image", "images", ImageSpec, ImageStatus
);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageSpec {
    #[serde(default)]
    pub source: ImageSource,
    /// SHA-256 (hex) of the source as supplied, before decompression. Checked if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// The source's format; found out from its content if not given. `raw` must be given for content without a
    /// partition table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ImageFormat>,
}

/// Where an image's content comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageSource {
    /// The client sends it: `PUT /v1/images/{name}/content`.
    #[default]
    Upload,
    /// The controller fetches it with HTTP(S).
    Url(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ImageFormat {
    Qcow2,
    Raw,
    Vmdk,
    Vhd,
    Vhdx,
    Vdi,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
        })
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageStatus {
    #[serde(default)]
    pub phase: ImagePhase,
    /// SHA-256 of the stored qcow2 (hex): its identity on every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What a guest sees.
    #[serde(default)]
    pub virtual_size: ByteSize,
    /// What it takes in storage.
    #[serde(default)]
    pub file_size: ByteSize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_format: Option<ImageFormat>,
    /// Why it failed, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImagePhase {
    /// Waiting for its content.
    #[default]
    Pending,
    /// Content is arriving or being converted.
    Importing,
    Ready,
    Failed,
}
