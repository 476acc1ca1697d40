//! The front of a bundle: the documents of its layout and its manifests, which come before the first blob.

use std::io::{self, Cursor, Read};
use std::sync::Arc;

use bytes::Bytes;

use super::document::Document;
use super::{layout, tar_header};
use crate::error::{Error, Result};
use crate::image::manifest::RawManifest;

/// Size of a piece of the front in bytes.
const PIECE: usize = 256 << 10;

/// The members of a tar archive before its first blob.
#[derive(Debug, Clone, Default)]
pub(super) struct Front {
    documents: Vec<Document>,
    /// Manifests, which follow the documents and are shared with the trees.
    manifests: Vec<Arc<RawManifest>>,
}

/// A member's total size in bytes, and its header, content and padding.
type Member<'a> = (u64, Box<dyn Read + Send + 'a>);

impl Front {
    /// Adds a document, which comes after the documents that were added before it.
    pub(super) fn add(&mut self, document: Document) {
        self.documents.push(document);
    }

    /// Adds the manifests, in the order of their members.
    pub(super) fn add_manifests<'a>(&mut self, manifests: impl ExactSizeIterator<Item = &'a Arc<RawManifest>>) {
        self.manifests = manifests.cloned().collect();
    }

    /// Returns the size of all members in bytes.
    ///
    /// # Errors
    /// If a name does not fit into a header.
    pub(super) fn len(&self) -> Result<u64> {
        self.members().try_fold(0, |sum, member| Ok(sum + member?.0))
    }

    /// Returns the bytes of all members, one piece at a time.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Result<Bytes>> + '_ {
        let mut members = self.members();
        let mut current: Box<dyn Read + Send + '_> = Box::new(io::empty());
        let mut next = move || -> Result<Bytes> {
            let mut piece = Vec::with_capacity(PIECE);
            loop {
                let room = (PIECE - piece.len()) as u64;
                let filled = current.by_ref().take(room).read_to_end(&mut piece);
                filled.map_err(read_error)?;
                if piece.len() == PIECE {
                    break;
                }
                let Some(member) = members.next() else { break };
                current = member?.1;
            }
            Ok(piece.into())
        };
        std::iter::from_fn(move || Some(next()).filter(|piece| !piece.as_ref().is_ok_and(Bytes::is_empty)))
    }

    fn members(&self) -> impl Iterator<Item = Result<Member<'_>>> {
        let documents = self.documents.iter();
        let documents = documents.map(|it| member(it.name, it.size, it.text()));
        let manifests = self.manifests.iter().map(|manifest| {
            let name = layout::blob_path(manifest.digest());
            member(&name, manifest.descriptor().size, &**manifest.bytes())
        });
        documents.chain(manifests)
    }
}

fn member<'a>(name: &str, size: u64, content: impl Read + Send + 'a) -> Result<Member<'a>> {
    let header = tar_header::member(name, size)?;
    let padding = tar_header::padding(size);
    let length = header.len() as u64 + size + padding;
    let bytes = Cursor::new(header).chain(content).chain(io::repeat(0).take(padding));
    Ok((length, Box::new(bytes)))
}

fn read_error(error: io::Error) -> Error {
    Error::internal("a document of the bundle cannot be read again").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_in_pieces_of_one_size() {
        let text: String = (0..20_000)
            .map(|number| format!("\"example.com/application-{number}\",\n"))
            .collect();
        let mut front = Front::default();
        for (name, text) in [("first", "{}"), ("second", &text)] {
            front.add(Document::new(name, |document| document.add(text.as_bytes())).unwrap());
        }
        let pieces: Vec<Bytes> = front.pieces().map(Result::unwrap).collect();
        let (last, whole) = pieces.split_last().unwrap();
        assert!(whole.iter().all(|piece| piece.len() == PIECE) && !last.is_empty());
        let all = pieces.concat();
        assert_eq!(all.len() as u64, front.len().unwrap());
        let mut archive = tar::Archive::new(all.as_slice());
        let texts = archive
            .entries()
            .unwrap()
            .map(|member| io::read_to_string(member.unwrap()).unwrap());
        assert_eq!(texts.collect::<Vec<_>>(), ["{}", &text]);
        assert_eq!(Front::default().pieces().count(), 0);
    }
}
