# SPDX-License-Identifier: Apache-2.0
"""A picture of augmented images with their mixed labels."""


def draw_preview(images, labels, class_names, picture):
    """Writes a PNG grid, each image under its label, e.g. "cat 0.62 dog 0.38".

    Args:
      images: uint8 [N, H, W, 3].
      labels: float [N, classes].
      class_names: list of str.
      picture: path of the PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.6 * columns, 2.05 * rows), dpi=100)
    FigureCanvasAgg(figure)
    for place, (image, label) in enumerate(zip(images, labels)):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(image, interpolation="nearest")
        axes.axis("off")
        parts = [(share, name) for share, name in zip(label, class_names) if share > 0]
        axes.set_title("\n".join("%s %.2f" % (name, share) for share, name in sorted(parts, reverse=True)), fontsize=8)
    figure.tight_layout(h_pad=0.4, w_pad=0.3)
    figure.savefig(picture)
