//! A conversation with an NFS server (RFC 1813) about the files at the top of one export, as one user.
//!
//! It lasts for one task and is begun anew for the next, so a server that was away is simply there again. Nothing is
//! tried twice here: who asked decides.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use gantry_types::{ByteSize, NfsExport, PoolSpace};
use nfs3_client::net::Connector;
use nfs3_client::nfs3_types::nfs3::{
    COMMIT3args, CREATE3args, FSSTAT3args, GETATTR3args, LINK3args, LOOKUP3args, Nfs3Option, Nfs3Result, READ3args,
    READDIRPLUS3args, REMOVE3args, SETATTR3args, WRITE3args, cookieverf3, createhow3, diropargs3, fattr3, filename3,
    nfs_fh3, nfsstat3, sattr3, stable_how,
};
use nfs3_client::nfs3_types::rpc::{auth_unix, opaque_auth};
use nfs3_client::nfs3_types::xdr_codec::Opaque;
use nfs3_client::tokio::{TokioConnector, TokioIo};
use nfs3_client::{ConnectError, MountError, Nfs3Client, Nfs3ConnectionBuilder, RpcError};
use tokio::net::TcpStream;
use uuid::Uuid;

/// A server that takes longer is not there.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
const PORTMAPPER: u16 = 111;
const PART_BYTES: usize = 64 << 10;
const NAMES_BYTES: u32 = 8 << 10;
const ENTRIES_BYTES: u32 = 64 << 10;
const FILE_MODE: u32 = 0o600;
const SHARED_FILE_MODE: u32 = 0o660;
const PUBLIC_FILE_MODE: u32 = 0o444;
/// Names of what is about to get another name, or to go.
pub(super) const UNFINISHED: &str = ".gantry-";

/// Of a server that was started anew.
pub(super) const LOST: &str = "its server was started anew meanwhile and may have lost some of it; repeat the command";

pub(super) type Handle = nfs_fh3;

/// What a server tells when it loses what it was not asked to keep yet: another one each time (RFC 1813, 3.3.21).
pub(super) type Verifier = [u8; 8];

#[derive(Debug)]
pub(super) enum OpenError {
    /// The server does not give this export to this host.
    Refused(String),
    Io(io::Error),
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: String,
    pub attributes: fattr3,
}

pub(super) struct Session {
    client: Nfs3Client<TokioIo<TcpStream>>,
    server: SocketAddr,
    root: Handle,
}

fn credential(uid: u32) -> opaque_auth<'static> {
    let machinename = Opaque::owned(b"gantry".to_vec());
    opaque_auth::auth_unix(&auth_unix { stamp: 0, machinename, uid, gid: uid, gids: Vec::new() })
}

impl Session {
    /// From an ordinary port, as QEMU does: an export that asks for a privileged one is of no use to it.
    pub async fn open(export: &NfsExport, uid: u32) -> Result<Self, OpenError> {
        let found = limited(tokio::net::lookup_host((export.server.as_str(), PORTMAPPER))).await;
        let mut found = found.map_err(OpenError::Io)?;
        let server = found.find(SocketAddr::is_ipv4).ok_or_else(|| {
            OpenError::Io(io::Error::new(io::ErrorKind::NotFound, format!("'{}' has no IPv4 address", export.server)))
        })?;
        let mount = Nfs3ConnectionBuilder::new(TokioConnector, server.ip().to_string(), &export.path)
            .connect_from_privileged_port(false)
            .credential(credential(uid))
            .mount();
        let mounted = tokio::time::timeout(ANSWER_LIMIT, mount).await.map_err(|_| OpenError::Io(silent()))?;
        let mounted = mounted.map_err(|error| match error {
            ConnectError::Mount(MountError::Denied(status)) => OpenError::Refused(status.to_string()),
            ConnectError::Io(error) => OpenError::Io(error),
            other => OpenError::Io(io::Error::other(other)),
        })?;
        let (root, server) = (mounted.root_nfs_fh3(), SocketAddr::new(server.ip(), mounted.nfs3_port));
        Ok(Self { client: mounted.into_nfs3_client(), server, root })
    }

    /// The same export for another user.
    pub async fn as_user(&self, uid: u32) -> io::Result<Self> {
        let stream = limited(TokioConnector.connect(self.server)).await?;
        let client = Nfs3Client::new_with_auth(stream, credential(uid), opaque_auth::default());
        Ok(Self { client, server: self.server, root: self.root.clone() })
    }

    fn named<'a>(&self, name: &'a str) -> diropargs3<'a> {
        diropargs3 { dir: self.root.clone(), name: filename3::from(name.as_bytes()) }
    }

    pub async fn find(&mut self, name: &str) -> io::Result<Option<(Handle, fattr3)>> {
        let what = self.named(name);
        let found = match answer(self.client.lookup(&LOOKUP3args { what })).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        let attributes = match found.obj_attributes {
            Nfs3Option::Some(attributes) => attributes,
            Nfs3Option::None => self.attributes(&found.object).await?,
        };
        Ok(Some((found.object, attributes)))
    }

    pub async fn attributes(&mut self, file: &Handle) -> io::Result<fattr3> {
        let found = answer(self.client.getattr(&GETATTR3args { object: file.clone() })).await?;
        Ok(found.obj_attributes)
    }

    /// What the server's clock shows, in seconds, after something in the export has been changed.
    pub async fn changed_at(&mut self) -> io::Result<u32> {
        let root = self.root.clone();
        Ok(self.attributes(&root).await?.mtime.seconds)
    }

    /// The first bytes of it, at most so many.
    pub async fn read(&mut self, file: &Handle, count: u32) -> io::Result<Vec<u8>> {
        self.read_at(file, 0, count).await
    }

    /// At most so many bytes from there on; none at its end.
    pub async fn read_at(&mut self, file: &Handle, offset: u64, count: u32) -> io::Result<Vec<u8>> {
        let read = answer(self.client.read(&READ3args { file: file.clone(), offset, count })).await?;
        Ok(read.data.to_vec())
    }

    /// Writes at an offset; it is on stable storage after the next [`Self::commit`] that answers with the same verifier.
    pub async fn write_at(&mut self, file: &Handle, offset: u64, content: &[u8]) -> io::Result<Option<Verifier>> {
        let (mut done, mut verifier) = (0, None);
        while done < content.len() {
            let part = &content[done..content.len().min(done + PART_BYTES)];
            let (at, count) = (offset + done as u64, part.len() as u32);
            let (stable, data) = (stable_how::UNSTABLE, Opaque::borrowed(part));
            let part = WRITE3args { file: file.clone(), offset: at, count, stable, data };
            let written = answer(self.client.write(&part)).await?;
            if written.count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            if verifier.is_some_and(|before| before != written.verf.0) {
                return Err(io::Error::other(LOST));
            }
            verifier = Some(written.verf.0);
            done += (written.count as usize).min(content.len() - done);
        }
        Ok(verifier)
    }

    pub async fn resize(&mut self, file: &Handle, size_bytes: u64) -> io::Result<()> {
        self.set(file, sattr3 { size: Nfs3Option::Some(size_bytes), ..sattr3::default() }).await
    }

    /// Everybody can read it, and nobody write.
    pub async fn make_public(&mut self, file: &Handle) -> io::Result<()> {
        self.set(file, sattr3 { mode: Nfs3Option::Some(PUBLIC_FILE_MODE), ..sattr3::default() }).await
    }

    /// The file gets this name besides; one that has it is not replaced ([`io::ErrorKind::AlreadyExists`]).
    pub async fn link(&mut self, file: &Handle, name: &str) -> io::Result<()> {
        let link = self.named(name);
        answer(self.client.link(&LINK3args { file: file.clone(), link })).await.map(drop)
    }

    /// All files at the top of the export.
    pub async fn list(&mut self) -> io::Result<Vec<Entry>> {
        let (mut cookie, mut cookieverf, mut all) = (0, cookieverf3::default(), Vec::new());
        loop {
            let dir = self.root.clone();
            let (dircount, maxcount) = (NAMES_BYTES, ENTRIES_BYTES);
            let part = READDIRPLUS3args { dir, cookie, cookieverf, dircount, maxcount };
            let part = answer(self.client.readdirplus(&part)).await?;
            cookieverf = part.cookieverf;
            let (entries, is_end) = (part.reply.entries.into_inner(), part.reply.eof);
            let is_empty = entries.is_empty();
            for entry in entries {
                cookie = entry.cookie;
                // A name that is not text is none of ours.
                let Ok(name) = String::from_utf8(entry.name.as_ref().to_vec()) else { continue };
                let attributes = match entry.name_attributes {
                    Nfs3Option::Some(attributes) => Some(attributes),
                    Nfs3Option::None => self.find(&name).await?.map(|(_, attributes)| attributes),
                };
                all.extend(attributes.map(|attributes| Entry { name, attributes }));
            }
            if is_end || is_empty {
                return Ok(all);
            }
        }
    }

    /// A new file of this user; [`io::ErrorKind::AlreadyExists`] if there is one.
    pub async fn create(&mut self, name: &str, uid: u32) -> io::Result<Handle> {
        let how = createhow3::GUARDED(sattr3 { mode: Nfs3Option::Some(FILE_MODE), ..sattr3::default() });
        let where_ = self.named(name);
        let made = answer(self.client.create(&CREATE3args { where_, how })).await?;
        let file = match made.obj {
            Nfs3Option::Some(file) => file,
            Nfs3Option::None => self.find(name).await?.ok_or(io::ErrorKind::NotFound)?.0,
        };
        self.give(&file, uid).await?;
        Ok(file)
    }

    /// Nobody but this user can open it, or go on using it: the server looks at each request.
    pub async fn give(&mut self, file: &Handle, uid: u32) -> io::Result<()> {
        // Nobody may get in between: fewer rights first.
        self.set(file, sattr3 { mode: Nfs3Option::Some(FILE_MODE), ..sattr3::default() }).await?;
        let (uid, gid) = (Nfs3Option::Some(uid), Nfs3Option::Some(uid));
        self.set(file, sattr3 { uid, gid, ..sattr3::default() }).await
    }

    /// This user can open it, too.
    pub async fn share(&mut self, file: &Handle, uid: u32) -> io::Result<()> {
        self.set(file, sattr3 { gid: Nfs3Option::Some(uid), ..sattr3::default() }).await?;
        self.set(file, sattr3 { mode: Nfs3Option::Some(SHARED_FILE_MODE), ..sattr3::default() }).await
    }

    async fn set(&mut self, file: &Handle, new_attributes: sattr3) -> io::Result<()> {
        let change = SETATTR3args { object: file.clone(), new_attributes, guard: Nfs3Option::None };
        answer(self.client.setattr(&change)).await.map(drop)
    }

    /// Writes to its beginning; it is on stable storage afterwards.
    pub async fn write(&mut self, file: &Handle, content: &[u8]) -> io::Result<()> {
        let mut done = 0;
        while done < content.len() {
            let part = &content[done..content.len().min(done + PART_BYTES)];
            let (offset, count) = (done as u64, part.len() as u32);
            let (stable, data) = (stable_how::FILE_SYNC, Opaque::borrowed(part));
            let part = WRITE3args { file: file.clone(), offset, count, stable, data };
            match answer(self.client.write(&part)).await?.count as usize {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => done += written.min(content.len() - done),
            }
        }
        Ok(())
    }

    /// What others have written to it is on stable storage, unless the server has lost some since it told another verifier.
    pub async fn commit(&mut self, file: &Handle) -> io::Result<Verifier> {
        let done = answer(self.client.commit(&COMMIT3args { file: file.clone(), offset: 0, count: 0 })).await?;
        Ok(done.verf.0)
    }

    /// A file appears with this content and owner, or not at all; one that has the name is not replaced
    /// ([`io::ErrorKind::AlreadyExists`]).
    pub async fn publish(&mut self, name: &str, content: &[u8], uid: u32) -> io::Result<()> {
        let fresh = format!("{UNFINISHED}{}", Uuid::new_v4());
        let file = self.create(&fresh, uid).await?;
        let published = match self.write(&file, content).await {
            Ok(()) => self.link(&file, name).await,
            failed => failed,
        };
        self.remove(&fresh).await?;
        published
    }

    /// Nothing there is fine.
    pub async fn remove(&mut self, name: &str) -> io::Result<()> {
        let object = self.named(name);
        match answer(self.client.remove(&REMOVE3args { object })).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done.map(drop),
        }
    }

    pub async fn space(&mut self) -> io::Result<PoolSpace> {
        let found = answer(self.client.fsstat(&FSSTAT3args { fsroot: self.root.clone() })).await?;
        Ok(PoolSpace { capacity: ByteSize(found.tbytes), free: ByteSize(found.abytes) })
    }
}

fn silent() -> io::Error {
    let text = format!("its server does not answer within {} s", ANSWER_LIMIT.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

async fn limited<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(ANSWER_LIMIT, work).await.unwrap_or_else(|_| Err(silent()))
}

async fn answer<T, E>(call: impl Future<Output = Result<Nfs3Result<T, E>, RpcError>>) -> io::Result<T> {
    let answered = limited(async {
        call.await.map_err(|error| match error {
            RpcError::Io(error) => error,
            other => io::Error::other(other),
        })
    });
    match answered.await? {
        Nfs3Result::Ok(done) => Ok(done),
        Nfs3Result::Err((status, _)) => Err(refusal(status)),
    }
}

/// In the words of this system. The numbers are those of another one, from some on.
fn refusal(status: nfsstat3) -> io::Error {
    use io::ErrorKind;
    let kind = match status {
        nfsstat3::NFS3ERR_PERM | nfsstat3::NFS3ERR_ACCES => ErrorKind::PermissionDenied,
        nfsstat3::NFS3ERR_NOENT => ErrorKind::NotFound,
        nfsstat3::NFS3ERR_EXIST => ErrorKind::AlreadyExists,
        nfsstat3::NFS3ERR_NOSPC => ErrorKind::StorageFull,
        nfsstat3::NFS3ERR_DQUOT => ErrorKind::QuotaExceeded,
        nfsstat3::NFS3ERR_ROFS => ErrorKind::ReadOnlyFilesystem,
        nfsstat3::NFS3ERR_STALE => ErrorKind::StaleNetworkFileHandle,
        _ => ErrorKind::Other,
    };
    io::Error::new(kind, status.to_string())
}
