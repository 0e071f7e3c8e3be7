//! A client of the NBD protocol on a connected socket: reads, writes, and which parts have data.
//!
//! Only what Gantry needs of <https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>: fixed newstyle
//! negotiation, structured replies, the contexts `base:allocation` and QEMU's dirty bitmaps, one request at a time. The server is
//! a QEMU that its guest may have taken over, so nothing it says makes this read or allocate more than was asked for.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const NEGOTIATION: u64 = 0x4e42_444d_4147_4943;
const OPTION: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
const REQUEST: u32 = 0x2560_9513;
const SIMPLE_REPLY: u32 = 0x6744_6698;
const STRUCTURED_REPLY: u32 = 0x668e_33ef;

const CLIENT_FLAGS: u32 = 0b11;
const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const OPT_SET_META_CONTEXT: u32 = 10;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_META_CONTEXT: u32 = 4;
const REP_ERR_UNKNOWN: u32 = 1 << 31 | 6;
const INFO_EXPORT: u16 = 0;

const CMD_READ: u16 = 0;
const CMD_WRITE: u16 = 1;
const CMD_FLUSH: u16 = 3;
const CMD_BLOCK_STATUS: u16 = 7;

const CHUNK_DONE: u16 = 1;
const CHUNK_DATA: u16 = 1;
const CHUNK_HOLE: u16 = 2;
const CHUNK_BLOCK_STATUS: u16 = 5;
const CHUNK_ERROR: u16 = 1 << 15;

const STATE_ZERO: u32 = 2;
const STATE_DIRTY: u32 = 1;

/// Of a message or a list of extents.
const PAYLOAD_MAX: u32 = 32 << 20;
/// How much of a disk is asked about at once.
const STATUS_BYTES_MAX: u64 = 1 << 30;
const CONTEXT_ALLOCATION: &str = "base:allocation";

/// An open export.
#[derive(Debug)]
pub struct NbdClient {
    stream: UnixStream,
    size_bytes: u64,
    /// The ids of the contexts that were asked for, as far as the server has them.
    allocation: Option<u32>,
    dirty: Option<u32>,
    cookie: u64,
}

/// A part of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub offset_bytes: u64,
    pub length_bytes: u64,
    /// Whether there may be something else than zeros, or, in a dirty bitmap, whether it was written to.
    pub is_set: bool,
}

impl NbdClient {
    /// Negotiates for an export; `bitmap` is the name of a dirty bitmap that it is asked about.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for a server that does not keep to the protocol, [`io::ErrorKind::NotFound`] without
    /// such an export.
    pub async fn connect(mut stream: UnixStream, export: &str, bitmap: Option<&str>) -> io::Result<Self> {
        if stream.read_u64().await? != NEGOTIATION || stream.read_u64().await? != OPTION {
            return Err(invalid("it is no NBD server"));
        }
        stream.read_u16().await?;
        stream.write_u32(CLIENT_FLAGS).await?;
        let mut client = Self { stream, size_bytes: 0, allocation: None, dirty: None, cookie: 0 };
        client.option(OPT_STRUCTURED_REPLY, &[]).await?;
        if client.option_reply(OPT_STRUCTURED_REPLY).await?.0 != REP_ACK {
            return Err(invalid("it gives no structured replies"));
        }
        client.ask_for_contexts(export, bitmap).await?;
        let mut go = length(export.len())?.to_be_bytes().to_vec();
        go.extend(export.as_bytes());
        go.extend([0, 0]);
        client.option(OPT_GO, &go).await?;
        loop {
            match client.option_reply(OPT_GO).await? {
                (REP_ACK, _) => return Ok(client),
                (REP_INFO, info) if info.len() >= 10 && info[..2] == INFO_EXPORT.to_be_bytes() => {
                    client.size_bytes = u64_at(&info, 2)?;
                }
                (REP_INFO, _) => {}
                (_, message) => return Err(no_export(export, &message)),
            }
        }
    }

    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub fn has_bitmap(&self) -> bool {
        self.dirty.is_some()
    }

    async fn ask_for_contexts(&mut self, export: &str, bitmap: Option<&str>) -> io::Result<()> {
        let bitmap = bitmap.map(|name| format!("qemu:dirty-bitmap:{name}"));
        let contexts: Vec<&str> = std::iter::once(CONTEXT_ALLOCATION).chain(bitmap.as_deref()).collect();
        let mut asked = Vec::new();
        asked.extend(length(export.len())?.to_be_bytes());
        asked.extend(export.as_bytes());
        asked.extend(length(contexts.len())?.to_be_bytes());
        for context in &contexts {
            asked.extend(length(context.len())?.to_be_bytes());
            asked.extend(context.as_bytes());
        }
        self.option(OPT_SET_META_CONTEXT, &asked).await?;
        loop {
            match self.option_reply(OPT_SET_META_CONTEXT).await? {
                (REP_ACK, _) => return Ok(()),
                (REP_META_CONTEXT, payload) if payload.len() > 4 => {
                    let id = u32_at(&payload, 0)?;
                    match &payload[4..] {
                        name if name == CONTEXT_ALLOCATION.as_bytes() => self.allocation = Some(id),
                        name if bitmap.as_ref().is_some_and(|bitmap| bitmap.as_bytes() == name) => {
                            self.dirty = Some(id);
                        }
                        _ => {}
                    }
                }
                (REP_ERR_UNKNOWN, message) => return Err(no_export(export, &message)),
                _ => return Err(invalid("it can't tell which parts have data")),
            }
        }
    }

    async fn option(&mut self, option: u32, payload: &[u8]) -> io::Result<()> {
        let mut message = OPTION.to_be_bytes().to_vec();
        message.extend(option.to_be_bytes());
        message.extend(length(payload.len())?.to_be_bytes());
        message.extend(payload);
        self.stream.write_all(&message).await
    }

    async fn option_reply(&mut self, option: u32) -> io::Result<(u32, Vec<u8>)> {
        if self.stream.read_u64().await? != OPTION_REPLY || self.stream.read_u32().await? != option {
            return Err(invalid("its answer is to another question"));
        }
        let kind = self.stream.read_u32().await?;
        let payload = self.payload(1 << 16).await?;
        Ok((kind, payload))
    }

    async fn payload(&mut self, bytes_max: u32) -> io::Result<Vec<u8>> {
        let length = self.stream.read_u32().await?;
        if length > bytes_max {
            return Err(invalid("its answer is too long"));
        }
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await?;
        Ok(payload)
    }

    async fn request(&mut self, command: u16, offset: u64, length: u32, payload: &[u8]) -> io::Result<()> {
        self.cookie += 1;
        let mut message = REQUEST.to_be_bytes().to_vec();
        message.extend([0, 0]);
        message.extend(command.to_be_bytes());
        message.extend(self.cookie.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend(length.to_be_bytes());
        message.extend(payload);
        self.stream.write_all(&message).await
    }

    /// The next piece of an answer: its kind, its content, and whether it is the last.
    async fn reply(&mut self) -> io::Result<(u16, Vec<u8>, bool)> {
        match self.stream.read_u32().await? {
            SIMPLE_REPLY => {
                let error = self.stream.read_u32().await?;
                self.expect_cookie().await?;
                if error != 0 {
                    return Err(refused(error, ""));
                }
                Ok((0, Vec::new(), true))
            }
            STRUCTURED_REPLY => {
                let (flags, kind) = (self.stream.read_u16().await?, self.stream.read_u16().await?);
                self.expect_cookie().await?;
                let payload = self.payload(PAYLOAD_MAX).await?;
                if kind & CHUNK_ERROR != 0 {
                    let text = payload.get(6..).unwrap_or_default();
                    return Err(refused(u32_at(&payload, 0)?, &String::from_utf8_lossy(text)));
                }
                Ok((kind, payload, flags & CHUNK_DONE != 0))
            }
            _ => Err(invalid("its answer is no reply")),
        }
    }

    async fn expect_cookie(&mut self) -> io::Result<()> {
        if self.stream.read_u64().await? == self.cookie {
            return Ok(());
        }
        Err(invalid("its answer is to another request"))
    }

    /// Fills `into` with what is at an offset; at most 32 MiB.
    ///
    /// # Errors
    /// What the server says, and that of the connection.
    pub async fn read(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.request(CMD_READ, offset, length(into.len())?, &[]).await?;
        let mut filled = 0;
        loop {
            let (kind, payload, is_last) = self.reply().await?;
            if kind == CHUNK_DATA || kind == CHUNK_HOLE {
                let begin = u64_at(&payload, 0)?.checked_sub(offset).map(|begin| begin as usize);
                let data = &payload[8..];
                let count = if kind == CHUNK_DATA { data.len() } else { u32_at(data, 0)? as usize };
                let part = begin.and_then(|begin| into.get_mut(begin..begin.checked_add(count)?));
                let part = part.ok_or_else(|| invalid("its answer is about another part"))?;
                if kind == CHUNK_DATA {
                    part.copy_from_slice(data)
                } else {
                    part.fill(0)
                }
                filled += count;
            }
            if is_last && filled == into.len() {
                return Ok(());
            }
            if is_last {
                return Err(invalid("its answer is cut off"));
            }
        }
    }

    /// # Errors
    /// What the server says, and that of the connection.
    pub async fn write(&mut self, offset: u64, content: &[u8]) -> io::Result<()> {
        self.request(CMD_WRITE, offset, length(content.len())?, content).await?;
        while !self.reply().await?.2 {}
        Ok(())
    }

    /// What was written is durable afterwards.
    ///
    /// # Errors
    /// What the server says, and that of the connection.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.request(CMD_FLUSH, 0, 0, &[]).await?;
        while !self.reply().await?.2 {}
        Ok(())
    }

    /// Where from an offset on there may be something else than zeros: some extents, in order, without gaps.
    ///
    /// # Errors
    /// What the server says, and that of the connection.
    pub async fn allocated(&mut self, offset: u64) -> io::Result<Vec<Extent>> {
        let context = self.allocation.ok_or_else(|| invalid("it can't tell which parts have data"))?;
        self.status(offset, context, |flags| flags & STATE_ZERO == 0).await
    }

    /// What the dirty bitmap says, in the same form.
    ///
    /// # Errors
    /// What the server says, and that of the connection.
    pub async fn dirty(&mut self, offset: u64) -> io::Result<Vec<Extent>> {
        let context = self.dirty.ok_or_else(|| invalid("it has no such bitmap"))?;
        self.status(offset, context, |flags| flags & STATE_DIRTY != 0).await
    }

    async fn status(&mut self, offset: u64, wanted: u32, is_set: fn(u32) -> bool) -> io::Result<Vec<Extent>> {
        let asked = STATUS_BYTES_MAX.min(self.size_bytes.saturating_sub(offset));
        self.request(CMD_BLOCK_STATUS, offset, asked as u32, &[]).await?;
        let (mut extents, mut at, end) = (Vec::new(), offset, offset + asked);
        loop {
            let (kind, payload, is_last) = self.reply().await?;
            if kind == CHUNK_BLOCK_STATUS && u32_at(&payload, 0)? == wanted {
                for entry in payload[4..].chunks_exact(8) {
                    // A server may say more than was asked.
                    let length_bytes = u64::from(u32_at(entry, 0)?).min(end - at);
                    extents.push(Extent { offset_bytes: at, length_bytes, is_set: is_set(u32_at(entry, 4)?) });
                    at += length_bytes;
                }
            }
            if is_last && at > offset {
                return Ok(extents);
            }
            if is_last {
                return Err(invalid("it does not tell which parts have data"));
            }
        }
    }
}

fn no_export(export: &str, message: &[u8]) -> io::Error {
    let message = String::from_utf8_lossy(message);
    io::Error::new(io::ErrorKind::NotFound, format!("the disk's server has no export '{export}': {message}"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the disk's server is not understood: {what}"))
}

fn refused(code: u32, text: &str) -> io::Error {
    let of_system = io::Error::from_raw_os_error(code.cast_signed());
    io::Error::new(of_system.kind(), format!("the disk's server refuses: {of_system} {text}").trim_end().to_owned())
}

fn length(bytes: usize) -> io::Result<u32> {
    u32::try_from(bytes).ok().filter(|length| *length <= PAYLOAD_MAX).ok_or_else(|| invalid("too much at once"))
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let found = bytes.get(at..at + 4).and_then(|part| part.try_into().ok());
    found.map(u32::from_be_bytes).ok_or_else(|| invalid("its answer is cut off"))
}

fn u64_at(bytes: &[u8], at: usize) -> io::Result<u64> {
    let found = bytes.get(at..at + 8).and_then(|part| part.try_into().ok());
    found.map(u64::from_be_bytes).ok_or_else(|| invalid("its answer is cut off"))
}
