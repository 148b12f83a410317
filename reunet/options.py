"""What can be chosen, each name once, and the choices of a run: one frozen `Options`.

Nothing is imported here: the command line needs the names before anything else is loaded. To add an
option, add a field here and an option in `cli`, and use it where it belongs.
"""

from dataclasses import dataclass

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "f32", "bf16")  # of products in the network, see `network.precision`
DECODERS = ("field", "regrow", "paper")  # of `instances.peaks` (field) and `instances.decode`
ENCODINGS = ("paper", "thin")  # of `instances.encode`
QUALITIES = ("fast", "standard", "best")
LAYOUTS = ("viewer", "challenge")  # of label files, see `io.labels`
VIEWS_OF = {"fast": 1, "standard": 2, "best": 4}  # of a tile, by quality: itself and mirror images
FINE_STEP = 0.5  # of a tile, that `best` puts its tiles apart: nnU-Net's
SMALLEST_CELL = 16  # px: the decoders drop what is smaller


@dataclass(frozen=True)
class Options:
    """How an image becomes cells. The names are those of the options of `reunet predict`.

    Raises ValueError for a value that does not exist.
    """

    quality: str = "standard"  # of QUALITIES: how much time accuracy may take, see below
    decoder: str | None = None  # of DECODERS (None: the bundle's)
    vote: bool = True  # folds vote on cells; else their logits are averaged (paper §2.7)
    tta: bool | None = None  # average over all four mirror images (None: as `quality` says)
    skip_empty: bool = True  # tiles on which nothing is to be seen are background
    enlarge: bool = True  # of bundles without a size of cells: a second pass over small cells
    diameter: float | None = None  # px, of the typical cell (None: estimated for every image)
    step: float | None = None  # distance of tiles as a share of one (None: as `quality` says)
    budget: str | None = None  # `challenge` or seconds an image, see `inference.budget`
    min_area: str | float | None = None  # of a cell: px, or text such as "20um2"
    drop_edge_cells: bool = False  # drop cells that the image's edge cuts
    pixel_size: str | float | None = None  # µm, or "width,height" (None: what the file says)
    labels: str = "viewer"  # of LAYOUTS
    channels: str | None = None  # such as "2", "0,2" or "DAPI,GFP" (None: the first three)
    plane: str | int | None = None  # of a stack: from 0, middle, max or all (None: the first)
    # what to look at: (x, y, width, height) in px, such as text, or a .geojson file (None: all)
    region: str | tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        """Complain of what does not exist, wherever it comes from."""
        if self.decoder is not None and self.decoder not in DECODERS:
            raise ValueError(f"decoder {self.decoder!r} does not exist: choose from {DECODERS}")
        if self.quality not in QUALITIES:
            raise ValueError(f"quality {self.quality!r} does not exist: choose from {QUALITIES}")
        if self.labels not in LAYOUTS:
            raise ValueError(f"labels {self.labels!r} do not exist: choose from {LAYOUTS}")
        if self.diameter is not None and not self.diameter > 0:
            raise ValueError(f"diameter {self.diameter} px: give a number above 0, or none")
        if self.step is not None and not 0 < self.step <= 1:
            raise ValueError(f"step {self.step}: choose a share of a tile, above 0 and up to 1")

    @property
    def views(self) -> int:
        """How many views of a tile are averaged, itself and mirror images: 1 is no test-time
        augmentation."""
        if self.tta is None:
            return VIEWS_OF[self.quality]
        return max(VIEWS_OF.values()) if self.tta else 1

    def step_of(self, bundle: float) -> float:
        """Distance of tiles as a share of one: half a tile for the `best`, else the bundle's."""
        return self.step or (min(bundle, FINE_STEP) if self.quality == "best" else bundle)
