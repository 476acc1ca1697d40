//! Bundles of a few megabytes that are made to cost gigabytes, written as they are made.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use docker_mirror::{
    Digest,
    testing::media_type::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST},
};

use crate::archives::{header, path as blob_path};
use crate::support::store::Store;

pub(crate) const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// A bundle in the making, whose documents come last.
pub(crate) struct Writer {
    path: PathBuf,
    file: BufWriter<File>,
    entries: Vec<String>,
    names: usize,
}

impl Writer {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            file: BufWriter::new(File::create(path).unwrap()),
            entries: Vec::new(),
            names: 0,
        }
    }

    pub(crate) fn member(&mut self, name: &str, bytes: &[u8]) {
        let padding = bytes.len().next_multiple_of(512) - bytes.len();
        self.file
            .write_all(&header(name.as_bytes(), bytes.len() as u64, b'0', b""))
            .unwrap();
        self.file.write_all(bytes).unwrap();
        self.file.write_all(&[0; 512][..padding]).unwrap();
    }

    /// Adds a blob, and gives the fields of its descriptor.
    pub(crate) fn blob(&mut self, media_type: &str, bytes: &[u8]) -> String {
        self.member(&blob_path(&Digest::sha256(bytes)), bytes);
        fields(media_type, bytes)
    }

    /// Adds the config of an image, of which `more` are fields.
    pub(crate) fn config(&mut self, more: &str) -> String {
        self.blob(
            OCI_CONFIG,
            format!(r#"{{"os":"linux","architecture":"amd64"{more}}}"#).as_bytes(),
        )
    }

    /// Adds the manifest of an image; `layers` are descriptors with commas between them.
    pub(crate) fn image(&mut self, config: &str, layers: &str) -> String {
        let text =
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{{config}}},"layers":[{layers}]}}"#);
        self.blob(OCI_MANIFEST, text.as_bytes())
    }

    /// Adds an index of these descriptors.
    pub(crate) fn index(&mut self, entries: &str) -> String {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{entries}]}}"#);
        self.blob(OCI_INDEX, text.as_bytes())
    }

    /// Lists something under the next name, with more annotations.
    pub(crate) fn name(&mut self, root: &str, annotations: &str) {
        let name = self.names;
        self.names += 1;
        self.entries.push(format!(
            r#"{{{root},"annotations":{{"org.opencontainers.image.ref.name":"example.com/a/b:{name}"{annotations}}}}}"#
        ));
    }

    /// Writes the documents, and gives the path of the bundle.
    pub(crate) fn end(mut self) -> PathBuf {
        self.member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
        let entries = std::mem::take(&mut self.entries).join(",");
        self.member(
            "index.json",
            format!(r#"{{"schemaVersion":2,"manifests":[{entries}]}}"#).as_bytes(),
        );
        self.file.write_all(&[0; 1024]).unwrap();
        self.file.flush().unwrap();
        self.path
    }
}

/// The fields of a descriptor.
pub(crate) fn fields(media_type: &str, bytes: &[u8]) -> String {
    let (digest, size) = (Digest::sha256(bytes), bytes.len());
    format!(r#""mediaType":"{media_type}","digest":"{digest}","size":{size}"#)
}

/// Descriptors of this many layers; `salt` makes them others than those of another list, and `more` are fields of each.
pub(crate) fn layers(media_type: &str, count: usize, salt: &str, more: &str) -> String {
    let mut text = String::new();
    for n in 0..count {
        let comma = if n > 0 { "," } else { "" };
        write!(
            text,
            "{comma}{{{}{more}}}",
            fields(media_type, format!("{salt}{n}").as_bytes())
        )
        .unwrap();
    }
    text
}

/// This many small images, each with an index, a config and a layer of its own.
pub(crate) fn images(path: &Path, images: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    for n in 0..images {
        let config = writer.config(&format!(r#","config":{{"Labels":{{"number":"{n}"}}}}"#));
        let layer = writer.blob(OCI_LAYER, n.to_string().as_bytes());
        let image = writer.image(&config, &format!("{{{layer}}}"));
        let index = writer.index(&format!(
            r#"{{{image},"platform":{{"os":"linux","architecture":"amd64"}}}}"#
        ));
        writer.name(&index, "");
    }
    writer.end()
}

/// Stores the manifests of a small image under the tag `1`: an index, and an image with a config and a layer of its own.
pub(crate) fn push_image(store: &Store, repository: &str) {
    let (config, layer) = (format!("config of {repository}"), format!("layer of {repository}"));
    let [config, layer] = [
        fields(OCI_CONFIG, config.as_bytes()),
        fields(OCI_LAYER, layer.as_bytes()),
    ];
    let image =
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{{config}}},"layers":[{{{layer}}}]}}"#);
    let entry = fields(OCI_MANIFEST, image.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","manifests":[{{{entry},"platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
    );
    store.put_manifest(repository, None, OCI_MANIFEST, image.into());
    store.put_manifest(repository, Some("1"), OCI_INDEX, index.into());
}

/// This many names of one image of this many layers.
pub(crate) fn names(path: &Path, names: usize, layers_of: usize, media_type: &str, are_there: bool) -> PathBuf {
    let mut writer = Writer::new(path);
    for n in 0..if are_there { layers_of } else { 0 } {
        writer.blob(media_type, n.to_string().as_bytes());
    }
    let config = writer.config("");
    let image = writer.image(&config, &layers(media_type, layers_of, "", ""));
    (0..names).for_each(|_| writer.name(&image, ""));
    writer.end()
}

/// This many annotations in the entries of an index, which has several names.
pub(crate) fn annotations(path: &Path, names: usize, entries: usize, of_entry: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    let config = writer.config("");
    let image = writer.image(&config, "");
    let annotations: Vec<String> = (0..of_entry).map(|n| format!(r#""{n}":"""#)).collect();
    let entry = format!(
        r#"{{{image},"platform":{{"os":"linux","architecture":"amd64"}},"annotations":{{{}}}}}"#,
        annotations.join(",")
    );
    let index = writer.index(&vec![entry; entries].join(","));
    (0..names).for_each(|_| writer.name(&index, ""));
    writer.end()
}

/// This many images, each with a manifest of about this many bytes and 10,000 layers.
pub(crate) fn large_manifests(path: &Path, images: usize, bytes: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    let config = writer.config("");
    const LAYERS: usize = 10_000;
    let one = layers(OCI_LAYER, 1, "9999", "").len() + 1;
    let padding = "x".repeat((bytes / LAYERS).saturating_sub(one + 25).max(1));
    for n in 0..images {
        let list = layers(
            FOREIGN,
            LAYERS,
            &format!("{n}/"),
            &format!(r#","annotations":{{"x":"{padding}"}}"#),
        );
        let image = writer.image(&config, &list);
        writer.name(&image, "");
    }
    writer.end()
}

/// A bundle whose index has this many names with annotations that nobody reads.
pub(crate) fn large_index(path: &Path, names: usize, bytes: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    let config = writer.config(&format!(r#","x":"{}""#, path.display()));
    let image = writer.image(&config, "");
    let padding = format!(r#","x":"{}""#, "x".repeat((bytes / names).saturating_sub(300)));
    (0..names).for_each(|_| writer.name(&image, &padding));
    writer.end()
}

/// An index of entries without a platform, so that the config of each tells it.
pub(crate) fn no_platforms(path: &Path, entries: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    let mut list = Vec::new();
    for n in 0..entries {
        let config = writer.config(&format!(r#","x":{n}"#));
        list.push(format!("{{{}}}", writer.image(&config, "")));
    }
    let index = writer.index(&list.join(","));
    writer.name(&index, "");
    writer.end()
}

/// A bundle with a record, in which each name has a claim of its own about one index of which half is dropped.
pub(crate) fn records(path: &Path, names: usize, entries: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    let config = writer.config("");
    let image = writer.image(&config, "");
    let entry = |n: usize| format!(r#"{{{image},"platform":{{"os":"linux","architecture":"a{n}"}}}}"#);
    let all: Vec<String> = (0..entries).map(entry).collect();
    let digest = |fields: &str| fields.split('"').nth(7).unwrap().to_owned();
    let original = digest(&writer.index(&all.join(",")));
    let smaller = writer.index(&all[..entries / 2].join(","));
    let filtered = digest(&smaller);
    let mut images = Vec::new();
    for n in 0..names {
        writer.name(&smaller, "");
        let other = Digest::sha256(n.to_string().as_bytes());
        let dropped = [&digest(&image), &other.to_string()]
            .map(|digest| format!(r#"{{"platform":"linux/arm64","digest":"{digest}"}}"#));
        images.push(format!(
            r#"{{"reference":"example.com/a/b:{n}","index":"filtered","original":"{original}","filtered":"{filtered}","kept":[],"dropped":[{}]}}"#,
            dropped.join(",")
        ));
    }
    let record = format!(r#"{{"formatVersion":1,"images":[{}]}}"#, images.join(","));
    writer.member("docker-mirror.json", record.as_bytes());
    writer.end()
}

/// A bundle whose record claims that images are missing, in many words.
pub(crate) fn missing_images(path: &Path, images: usize, bytes: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    let config = writer.config("");
    let image = writer.image(&config, "");
    writer.name(&image, "");
    // Two bytes each, of which an escape makes six.
    let reason = "\u{80}".repeat(bytes / 2);
    let missing: Vec<String> = (0..images)
        .map(|n| format!(r#"{{"reference":"example.com/c/d:{n}","reason":"{reason}"}}"#))
        .collect();
    let record = format!(r#"{{"formatVersion":1,"images":[],"missing":[{}]}}"#, missing.join(","));
    writer.member("docker-mirror.json", record.as_bytes());
    writer.end()
}

/// This many images of one repository, each with a signature of its own under the tag of cosign.
pub(crate) fn signed(path: &Path, images: usize) -> PathBuf {
    let mut bundle = Writer::new(path);
    let config = bundle.config("");
    for number in 0..images {
        let more = |what: &str| format!(r#""annotations":{{"{what}":"{number}"}},"config":{{{config}}},"layers":[]"#);
        let manifest = |what: &str| {
            let fields = more(what);
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}",{fields}}}"#).into_bytes()
        };
        let (image, signature) = (manifest("image"), manifest("signature"));
        let tag = Digest::sha256(&image).to_string().replace(':', "-");
        for (bytes, tag) in [(image, number.to_string()), (signature, format!("{tag}.sig"))] {
            let root = bundle.blob(OCI_MANIFEST, &bytes);
            bundle.entries.push(format!(
                r#"{{{root},"annotations":{{"org.opencontainers.image.ref.name":"example.com/a/b:{tag}"}}}}"#
            ));
        }
    }
    bundle.end()
}

/// A docker-archive in which this many names share one image of this many layers.
pub(crate) fn docker_archive(path: &Path, names: usize, layers_of: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    let layer = [0; 1024];
    writer.member("a/layer.tar", &layer);
    let diff_ids = vec![format!(r#""{}""#, Digest::sha256(&layer)); layers_of].join(",");
    let config =
        format!(r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[{diff_ids}]}}}}"#);
    writer.member("config.json", config.as_bytes());
    let tags: Vec<String> = (0..names).map(|n| format!(r#""example.com/a/b:{n}""#)).collect();
    let layers = vec![r#""a/layer.tar""#; layers_of].join(",");
    let items = format!(
        r#"[{{"Config":"config.json","RepoTags":[{}],"Layers":[{layers}]}}]"#,
        tags.join(",")
    );
    writer.member("manifest.json", items.as_bytes());
    writer.file.write_all(&[0; 1024]).unwrap();
    writer.file.flush().unwrap();
    writer.path
}

/// A bundle as this program writes it, whose record takes this many bytes: all of it is in front of the layers.
pub(crate) fn large_front(path: &Path, bytes: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{{}}},"layers":[]}}"#,
        fields(OCI_CONFIG, config)
    );
    let digest = Digest::sha256(text.as_bytes());
    let entry = fields(OCI_MANIFEST, text.as_bytes());
    writer.member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{{entry},"annotations":{{"org.opencontainers.image.ref.name":"example.com/a/b:1"}}}}]}}"#
    );
    writer.member("index.json", index.as_bytes());
    let line = format!(r#"{{"platform":"","digest":"{digest}"}}"#);
    let lines = vec![line.as_str(); bytes / (line.len() + 1)].join(",");
    let record = format!(
        r#"{{"formatVersion":1,"images":[{{"reference":"example.com/a/b:1","index":"whole","original":"{digest}","kept":[{lines}]}}]}}"#
    );
    writer.member("docker-mirror.json", record.as_bytes());
    writer.member(&blob_path(&digest), text.as_bytes());
    writer.member(&blob_path(&Digest::sha256(config)), config);
    writer.file.write_all(&[0; 1024]).unwrap();
    writer.file.flush().unwrap();
    writer.path
}

/// A bundle as this program writes it, compressed so that a decoder needs the largest window: `planned` images of 10,000 layers
/// that are not in it, and `large` ones of a manifest of almost 4 MiB and one layer that is.
pub(crate) fn large_window(path: &Path, planned: usize, large: usize) -> PathBuf {
    let mut writer = Writer::new(path);
    // The window is full before the documents come. No member is larger than a document may be.
    (0..3).for_each(|number| writer.member(&format!("zeros{number}"), &vec![0; 45 << 20]));
    let config = br#"{"os":"linux","architecture":"amd64"}"#;
    let image = |layers: &str| {
        let config = fields(OCI_CONFIG, config);
        format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{{config}}},"layers":[{layers}]}}"#)
    };
    let blob = |number: usize| vec![number as u8; 5 << 20];
    let mut manifests: Vec<String> = (0..planned)
        .map(|number| image(&layers(OCI_LAYER, 10_000, &format!("{number}/"), "")))
        .collect();
    let padding = "x".repeat(4_000_000);
    manifests.extend((0..large).map(|number| {
        let layer = fields(OCI_LAYER, &blob(number));
        image(&format!(r#"{{{layer},"annotations":{{"x":"{padding}"}}}}"#))
    }));
    let digests: Vec<Digest> = manifests.iter().map(|text| Digest::sha256(text.as_bytes())).collect();
    let mut entries = Vec::new();
    let mut records = Vec::new();
    for (number, (text, digest)) in manifests.iter().zip(&digests).enumerate() {
        let (entry, name) = (
            fields(OCI_MANIFEST, text.as_bytes()),
            format!("example.com/a/b:{number}"),
        );
        entries.push(format!(
            r#"{{{entry},"annotations":{{"org.opencontainers.image.ref.name":"{name}"}}}}"#
        ));
        records.push(format!(
            r#"{{"reference":"{name}","index":"whole","original":"{digest}","kept":[{{"platform":"linux/amd64","digest":"{digest}"}}]}}"#
        ));
    }
    writer.member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
    writer.member("index.json", index.as_bytes());
    let record = format!(r#"{{"formatVersion":1,"images":[{}]}}"#, records.join(","));
    writer.member("docker-mirror.json", record.as_bytes());
    for (text, digest) in manifests.iter().zip(&digests) {
        writer.member(&blob_path(digest), text.as_bytes());
    }
    writer.member(&blob_path(&Digest::sha256(config)), config);
    for number in 0..large {
        writer.member(&blob_path(&Digest::sha256(&blob(number))), &blob(number));
    }
    writer.file.write_all(&[0; 1024]).unwrap();
    writer.file.flush().unwrap();
    compressed(path)
}

/// Compresses a file so that a decoder needs the largest window, and gives the path of the result.
fn compressed(path: &Path) -> PathBuf {
    let packed = path.with_extension("tar.zst");
    let mut encoder = zstd::stream::write::Encoder::new(File::create(&packed).unwrap(), 1).unwrap();
    encoder.window_log(27).unwrap();
    std::io::copy(&mut File::open(path).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    packed
}
