"""The paths of the project."""

from django.urls import path
from orders import views

urlpatterns = [
    path("orders/<order_id>", views.place_order),
    path("async-orders/<order_id>", views.place_order_async),
    path("forgotten-orders/<order_id>", views.forget_the_transaction),
]
