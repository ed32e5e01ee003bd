from .extract import fill_store as fill_store
from .extract import fold_features as fold_features
from .store import FeatureStore as FeatureStore
from .store import feature_key as feature_key

__all__ = ["FeatureStore", "feature_key", "fill_store", "fold_features"]
