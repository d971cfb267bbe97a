"""The Keras layers of a cascade, one file each."""

from dvt_tf.layers.attention import Attention
from dvt_tf.layers.drop_path import DropPath
from dvt_tf.layers.dropout import StatelessDropout
from dvt_tf.layers.linear import Linear
from dvt_tf.layers.mlp import MLP
from dvt_tf.layers.norm import LayerNorm
from dvt_tf.layers.patch_embedding import PatchEmbedding
from dvt_tf.layers.performer import Performer, PositiveRandomFeatures
from dvt_tf.layers.position_embedding import PositionEmbedding
from dvt_tf.layers.reuse import FeatureReuse, GridResize, RelationshipReuse
from dvt_tf.layers.tokens_to_token import TokensToToken
from dvt_tf.layers.transformer_block import TransformerBlock

__all__ = [
    "MLP",
    "Attention",
    "DropPath",
    "FeatureReuse",
    "GridResize",
    "LayerNorm",
    "Linear",
    "PatchEmbedding",
    "Performer",
    "PositionEmbedding",
    "PositiveRandomFeatures",
    "RelationshipReuse",
    "StatelessDropout",
    "TokensToToken",
    "TransformerBlock",
]
