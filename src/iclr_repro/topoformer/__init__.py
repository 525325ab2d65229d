"""temporary"""
from iclr_repro.topoformer.attention import SpatialQuerying, SpatialReweighting, TopographicSelfAttention
from iclr_repro.topoformer.maps import morans_i, pca_maps, selectivity_map
from iclr_repro.topoformer.pls import pls_svd
from iclr_repro.topoformer.sheet import circular_mask
from iclr_repro.topoformer.statistic import topographic_statistic
