//! Images: declared and uploaded in one go, or uploaded later.

use super::{Session, bare, change::Taken};
use crate::{
    Failure,
    client::Away,
    failure::Tally,
    kinds::Kind,
    output::{note, sayln},
    upload::upload,
};
use basalt_wire::rest::{Image, Phase, TransferGrant};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::Path,
    time::{Duration, Instant},
};

/// How long the image service may take to tell the gateway what became of an upload.
const STALE: Duration = Duration::from_secs(5);

impl Session {
    pub(super) async fn create_image(
        &self,
        name: &str,
        file: &Path,
        sha256: Option<String>,
        format: Option<String>,
    ) -> Result<(), Failure> {
        let unreadable = |e| Failure::Usage(format!("--file {}: {e}", file.display()));
        let size = fs::metadata(file).map_err(unreadable)?.len();
        let format = match format {
            Some(format) => format,
            None => begins_like(file).map_err(unreadable)?.to_owned(),
        };
        let kind = Kind::find("image")?;
        let mut body = json!({"name": name, "spec": {"format": format, "size_bytes": size}});
        if let Some(sha256) = sha256 {
            body["spec"]["sha256"] = sha256.into();
        }
        let accepted: Value = self.client.post(&kind.collection(&self.project), &body).await?;
        let taken = Taken::read(kind, name, "created", accepted)?;
        let mut tally = Tally::new(1);
        match tally.keep(&taken.label, self.send(name, file).await) {
            Some(()) => self.conclude_all(vec![taken], &mut tally).await?,
            None => note!(
                "it is declared and has no bytes: basalt upload {name} --file {} sends them, basalt delete image {name} takes it back",
                file.display()
            ),
        }
        tally.end()
    }

    /// The image service fetches it; the task says how far it is.
    pub(super) async fn import_image(
        &self,
        name: &str,
        url: &str,
        sha256: Option<String>,
        format: Option<String>,
    ) -> Result<(), Failure> {
        let format = format.or_else(|| ends_like(url).map(str::to_owned)).ok_or_else(|| {
            Failure::Usage(format!("--format: {url} does not end with .qcow2, .raw or .iso; say which it is"))
        })?;
        let mut spec = json!({"format": format, "source": {"url": url}});
        if let Some(sha256) = sha256 {
            spec["sha256"] = sha256.into();
        }
        self.declare("image", json!({"name": name, "spec": spec})).await
    }

    pub(super) async fn upload(&self, image: &str, file: &Path) -> Result<(), Failure> {
        let name = bare("image", image);
        let path = Kind::find("image")?.object(&self.project, name);
        let declared: Image = self.client.get(&path).await?;
        let size =
            fs::metadata(file).map_err(|e| Failure::Usage(format!("--file {}: {e}", file.display())))?.len();
        if let Some(expected) = declared.spec.size_bytes.filter(|expected| *expected != size) {
            return Err(Failure::Usage(format!(
                "--file {}: it has {size} bytes, image/{name} was declared with {expected}; give the file that was meant, or delete the image and create it anew",
                file.display(),
            )));
        }
        let mut tally = Tally::new(1);
        let outcome = self.send_and_wait(name, file, &declared).await;
        if tally.keep(&format!("image/{name}"), outcome).is_some() {
            sayln!("image/{name} uploaded");
        }
        tally.end()
    }

    async fn send_and_wait(&self, name: &str, file: &Path, declared: &Image) -> Result<(), Failure> {
        self.send(name, file).await?;
        if !self.wait {
            return Ok(());
        }
        let path = Kind::find("image")?.object(&self.project, name);
        let (mut away, sent) = (Away::default(), Instant::now());
        let verified = async {
            loop {
                match away.bear(self.client.get::<Image>(&path).await)? {
                    Some(image) if image.phase == Phase::Ready => return Ok(()),
                    // What was said of an upload before is not the answer to this one, unless nothing else comes.
                    Some(image)
                        if image.phase == Phase::Failed
                            && (image.observed != declared.observed || sent.elapsed() > STALE) =>
                    {
                        let reason = image.observed.reason.map(|r| r.to_string()).unwrap_or_default();
                        return Err(Failure::Other(format!("it was refused: {reason}")));
                    }
                    _ => {}
                }
                tokio::time::sleep(away.pause(Duration::from_millis(100))).await;
            }
        };
        let verified = tokio::time::timeout(self.left(), verified).await;
        verified.map_err(|_| {
            let wait = format!("basalt wait image/{name} --for ready");
            Failure::TimedOut(format!("not verified in {} s; wait on: {wait}", self.timeout.as_secs()))
        })?
    }

    /// Sends a file's bytes; they are verified after the last of them.
    async fn send(&self, name: &str, file: &Path) -> Result<(), Failure> {
        let size = fs::metadata(file)?.len();
        let path = format!("{}/upload", Kind::find("image")?.object(&self.project, name));
        let grant: TransferGrant = self.client.call(&path).await?;
        let bar = ProgressBar::new(size);
        if let Ok(style) =
            ProgressStyle::with_template("{msg} [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}")
        {
            bar.set_style(style);
        }
        bar.set_message(format!("image/{name}"));
        let sent = upload(self.client.http(), &grant, file, |sent| bar.set_position(sent)).await;
        bar.finish_and_clear();
        sent
    }
}

/// The format that a file's first bytes are those of.
fn begins_like(file: &Path) -> std::io::Result<&'static str> {
    let mut file = File::open(file)?;
    let mut begins = |at: u64, magic: &[u8]| {
        let mut head = vec![0; magic.len()];
        file.seek(SeekFrom::Start(at))?;
        match file.read_exact(&mut head) {
            Ok(()) => Ok(head == magic),
            // A file that is shorter has no such bytes.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            Err(e) => Err(e),
        }
    };
    if begins(0, b"QFI\xfb")? {
        return Ok("qcow2");
    }
    Ok(if begins(32769, b"CD001")? { "iso" } else { "raw" })
}

/// The format that an address says with its ending.
fn ends_like(url: &str) -> Option<&'static str> {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    ["qcow2", "raw", "iso"].into_iter().find(|format| path.ends_with(&format!(".{format}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_what_it_leads_to_or_somebody_else_has_to() {
        assert_eq!(ends_like("https://images.example/debian-12.qcow2?mirror=1"), Some("qcow2"));
        assert_eq!(ends_like("https://images.example/debian-12.iso"), Some("iso"));
        assert_eq!(ends_like("https://images.example/debian-12.img"), None);
    }

    #[test]
    fn a_file_says_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut disc = vec![0; 40_000];
        disc[32_769..32_774].copy_from_slice(b"CD001");
        for (bytes, format) in
            [(b"QFI\xfb\0\0\0\x03".to_vec(), "qcow2"), (disc, "iso"), (vec![0; 512], "raw"), (vec![], "raw")]
        {
            let path = dir.path().join("image");
            fs::write(&path, bytes).unwrap();
            assert_eq!(begins_like(&path).unwrap(), format);
        }
    }
}
